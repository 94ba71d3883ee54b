"""The tables of `bench_train.py`: each program beside the fastest peer, and beside what the machine can do."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.train_cases import Case
from benchmarks.train_record import QUIET_SHARE, Limit, Trained, load_text

OWN = "firstlight"
LOSS_TOLERANCE = 0.3
"""Nats: the first loss lies so near to that of a guess, ln(vocabulary), whatever the initial weights are."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """All rounds of one program with one of its settings."""

    program: str
    settings: str
    rounds: Mapping[int, Trained]

    @property
    def rates(self) -> list[float]:
        """Tokens per second of each round."""
        return [one.tokens_per_second for one in self.rounds.values()]

    @property
    def _step_rates(self) -> list[float]:
        return [one.tokens_per_step / seconds for one in self.rounds.values() for seconds in one.measured_seconds]

    @property
    def rate(self) -> float:
        """Of the median step of all rounds."""
        return statistics.median(self._step_rates)

    @property
    def best_rate(self) -> float:
        """Of the fastest step: what neighbours on the same processor, who are not seen, take away least from."""
        return max(self._step_rates)

    @property
    def peak_gigabytes(self) -> float:
        """The most of any round."""
        return max(one.peak_bytes for one in self.rounds.values()) / 1e9

    @property
    def first_step_seconds(self) -> float:
        """From the command to the end of its first step; median of the rounds."""
        return statistics.median(one.first_step_seconds for one in self.rounds.values())

    @property
    def foreign_share(self) -> float:
        """Median of the rounds."""
        return statistics.median(one.foreign_share for one in self.rounds.values())

    def ratios(self, other: "Column") -> list[float]:
        """Of the rates in the rounds that both have."""
        both = self.rounds.keys() & other.rounds.keys()
        return [self.rounds[one].tokens_per_second / other.rounds[one].tokens_per_second for one in sorted(both)]


def columns(records: Iterable[Trained | Limit], case: str) -> list[Column]:
    """Of one model, in the order of their first records."""
    found: dict[tuple[str, str], dict[int, Trained]] = defaultdict(dict)
    for one in records:
        if isinstance(one, Trained) and one.case == case and one.error is None:
            found[one.program, one.settings][one.round] = one
    return [Column(program=program, settings=settings, rounds=rounds) for (program, settings), rounds in found.items()]


def limit(records: Iterable[Trained | Limit]) -> tuple[float, dict[str, float]]:
    """GFLOP/s: the mean over the shapes, and each; medians of the times that others left in peace, if there are any."""
    every = [one for one in records if isinstance(one, Limit)]
    limits = [one for one in every if one.foreign_share <= QUIET_SHARE] or every
    shapes = {shape: statistics.median(one.gigaflops[shape] for one in limits) for shape in limits[0].gigaflops}
    return statistics.mean(shapes.values()), shapes


def best_peer(found: Sequence[Column], settings: str) -> Column | None:
    """The fastest of the others with these settings."""
    peers = [one for one in found if one.program != OWN and one.settings == settings]
    return max(peers, key=lambda one: one.rate, default=None)


def faults(records: Iterable[Trained | Limit], case: Case) -> list[str]:
    """What would make a comparison worthless: another model, or a first loss that is not that of a guess."""
    guess = math.log(case.model["vocab_size"])
    found = []
    for one in records:
        if not isinstance(one, Trained) or one.case != case.name:
            continue
        if one.error is not None:
            found.append(f"{one.program}, {one.settings}: failed: {one.error}")
        elif one.parameters != case.parameters:
            found.append(f"{one.program} has {one.parameters:,} parameters, not {case.parameters:,}")
        elif abs(one.losses[0] - guess) > LOSS_TOLERANCE:
            found.append(f"{one.program} begins with loss {one.losses[0]:.3f}, not near ln(vocabulary) = {guess:.3f}")
    return found


def lines(records: Sequence[Trained | Limit], case: Case) -> list[str]:
    """The table of one model as Markdown, and what follows from it."""
    peak, _ = limit(records)
    found = columns(records, case.name)
    rows = [
        "| program | settings | tokens/s | rounds | fastest step | GFLOP/s | of the limit | peak memory "
        "| first step after | others' load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in sorted(found, key=lambda one: -one.rate):
        gigaflops = one.rate * case.flops_per_token / 1e9
        rows.append(
            f"| {one.program} | {one.settings} | {one.rate:.0f} "
            f"| {min(one.rates):.0f} to {max(one.rates):.0f} | {one.best_rate:.0f} "
            f"| {gigaflops:.1f} | {gigaflops / peak:.1%} | {one.peak_gigabytes:.2f} GB "
            f"| {one.first_step_seconds:.1f} s | {load_text(one.foreign_share)} |"
        )
    quiet = [one for one in found if one.foreign_share <= QUIET_SHARE]
    failed = [f"- CHECK FAILED: {fault}" for fault in dict.fromkeys(faults(records, case))]
    return [*rows, *_compared(quiet), *failed]


def _compared(found: Sequence[Column]) -> list[str]:
    own = next((one for one in found if one.program == OWN), None)
    said = []
    for settings, words in (("as found", "as found"), ("allocator", "with the allocator's settings")):
        peer = best_peer(found, settings)
        if own is None or peer is None:
            continue
        ratios = own.ratios(peer)
        spread = f" (by rounds {min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        fastest = max((one for one in found if one.settings == settings and one.program != OWN), key=_best_rate)
        said.append(
            f"- {own.rate / peer.rate:.2f} times the fastest peer {words}, {peer.program}{spread}; "
            f"by fastest steps {own.best_rate / fastest.best_rate:.2f} times {fastest.program}"
        )
    return ["", *said] if said else []


def _best_rate(column: Column) -> float:
    return column.best_rate


def heading(case: Case) -> str:
    """What is trained."""
    return (
        f"{case.name}: {case.parameters / 1e6:.2f} M parameters, {case.flops_per_token / 1e6:.1f} MFLOP per token, "
        f"{case.batch_size} x {case.sequence_length} tokens per step"
    )


def limit_line(records: Iterable[Trained | Limit]) -> str:
    """What matrix products reach."""
    peak, shapes = limit(records)
    each = ", ".join(f"{name} {value:.1f}" for name, value in shapes.items())
    return f"fp32 matrix products: {peak:.1f} GFLOP/s, the mean of the medians of three shapes ({each})"


def show(records: Sequence[Trained | Limit], cases: Sequence[Case]) -> None:
    """Print all of it."""
    print(limit_line(records))
    for case in cases:
        print("\n".join(["", heading(case), *lines(records, case)]))
