"""Whether a rank computes the same again: forward and backward of a few rows twice, and compared bit by bit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from firstlight.base.peers import Peers
from firstlight.data.stream import Batch
from firstlight.parallel.digests import say_to_all
from firstlight.parallel.engine import Engine
from firstlight.parallel.probe import Probe, Sign

_NOTHING, _FOREIGN, _OWN = 0.0, 1.0, 2.0
"""What of a rank is not the same: nothing; what it was given, or sums over ranks; what it has computed itself."""


@dataclass(frozen=True, kw_only=True)
class Miscomputed:
    """Which ranks have computed two values of the same, in words; and whether they did again when asked once more."""

    what: str
    is_lasting: bool


@dataclass(frozen=True, kw_only=True)
class _Difference:
    """The first sign in which two runs differ."""

    what: str = ""
    kind: float = _NOTHING
    place: int = 0
    """Signs before it: ranks with the same layers go through the same ones."""


class Replay:
    """Runs the same rows again and again, on all ranks together. The step that follows sees nothing of it."""

    def __init__(self, engine: Engine, probe: Probe, peers: Peers, *, num_rows: int | None) -> None:
        """`num_rows`: so many of this rank's rows are replayed; None: all of them, as a pipeline needs."""
        self._engine = engine
        self._probe = probe
        self._peers = peers
        self._num_rows = num_rows
        self._device = next(probe.stages[0].parameters()).device

    def find(self, batch: Batch) -> Miscomputed | None:
        """Two runs of the same rows, and a third when they differ on some rank. Collective."""
        rows = self._rows(batch)
        runs = [self._run(rows), self._run(rows)]
        difference = _first_difference(*runs)
        kinds = self._by_rank(difference.kind)
        if not any(kinds):
            return None
        runs.append(self._run(rows))
        # Of a passing fault one run of three is wrong, and the other two are alike.
        differs_again = all(_first_difference(one, runs[2]).kind for one in runs[:2])
        lasting = self._by_rank(float(differs_again))
        wrong = self._first_wrong(kinds, self._by_rank(float(difference.place)))
        is_lasting = any(lasting[rank] for rank in wrong)
        what = say_to_all(difference.what, wrong[0], self._device) if self._peers.size > 1 else difference.what
        who = f"rank(s) {', '.join(map(str, wrong))} computed" if max(kinds) == _OWN else "some rank computed"
        how = "each of three times otherwise" if is_lasting else "once otherwise than twice more"
        return Miscomputed(what=f"{who} {what} {how}, from the same rows and weights", is_lasting=is_lasting)

    def _first_wrong(self, kinds: Sequence[float], places: Sequence[float]) -> list[int]:
        """The ranks that were wrong by themselves; where they talk within layers, a layer later others are too."""
        wrong = [rank for rank, kind in enumerate(kinds) if kind == max(kinds)]
        first = min(places[rank] for rank in wrong)
        return [rank for rank in wrong if places[rank] == first]

    def _rows(self, batch: Batch) -> Batch:
        if self._num_rows is None:
            return batch
        part = slice(0, self._num_rows)
        return replace(
            batch,
            tokens=batch.tokens[part],
            labels=batch.labels[part],
            loss_mask=batch.loss_mask[part],
            begins=None if batch.begins is None else batch.begins[part],
            num_micro_batches=1,
        )

    def _run(self, rows: Batch) -> list[Sign]:
        return self._probe.signs_of(self._engine, rows)

    def _by_rank(self, value: float) -> list[float]:
        slots = [0.0] * self._peers.size
        slots[self._peers.rank] = value
        return self._peers.sum(slots)


def _first_difference(one: Sequence[Sign], other: Sequence[Sign]) -> _Difference:
    pairs = list(zip(one, other, strict=False))
    if pairs:
        differs = torch.stack([a.digest for a, _ in pairs]) != torch.stack([b.digest for _, b in pairs])
        for place, ((a, b), is_different) in enumerate(zip(pairs, differs.tolist(), strict=True)):
            if is_different or a.what != b.what:
                return _Difference(what=a.what, kind=_OWN if a.is_own else _FOREIGN, place=place)
    return _Difference() if len(one) == len(other) else _Difference(what="gradients in another order", kind=_FOREIGN)
