"""How the cost of a step grows with layers, experts and sequence length, and what a step costs beside its arithmetic.

Every run is `firstlight train`. Cost grows as it should where tokens/s times FLOPs per token stays the same. What a
step costs beside the arithmetic is the time of one with 16 tokens.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks.programs import OWN, Programs, add_flags  # noqa: E402
from benchmarks.train_cases import BATCH_SIZE, DENSE, MOE, SEQUENCE_LENGTH, Case  # noqa: E402
from benchmarks.train_record import QUIET_SHARE, Trained, load_text, read  # noqa: E402

LAYERS = (2, 4, 8, 16)
EXPERTS = (8, 16, 32, 64)
LENGTHS = (128, 256, 512, 1024, 2048)
AIM = 0.15
"""By so much tokens/s times FLOPs per token may differ from the middle of a family."""


def cases(families: Sequence[str]) -> Iterator[Case]:
    """All models; the name is `family=number`, where the number is what grows."""
    every = [
        *(layers_case("dense layers", count) for count in LAYERS),
        *(layers_case("mixture layers", count) for count in LAYERS),
        *(experts_case(count) for count in EXPERTS),
        *(length_case(count) for count in LENGTHS),
        *(_small(layers_case("dense layers", count), "16 tokens, dense layers", count) for count in LAYERS),
        *(_small(layers_case("mixture layers", count), "16 tokens, mixture layers", count) for count in LAYERS),
    ]
    return (case for case in every if case.name.partition("=")[0] in families)


FAMILIES = (
    *("dense layers", "mixture layers", "experts", "sequence length"),
    *("16 tokens, dense layers", "16 tokens, mixture layers"),
)


def layers_case(family: str, count: int) -> Case:
    """A model with so many layers."""
    model = DENSE if family == "dense layers" else MOE
    return Case(name=f"{family}={count}", model={**model, "num_hidden_layers": count})


def experts_case(count: int) -> Case:
    """A mixture of so many experts, of which each token takes as many as ever."""
    return Case(
        name=f"experts={count}", model={**MOE, "feed_forward": {**MOE["feed_forward"], "n_routed_experts": count}}
    )


def length_case(length: int) -> Case:
    """The mixture on as many tokens in sequences of this length."""
    batch_size = BATCH_SIZE * SEQUENCE_LENGTH // length
    model = {**MOE, "max_position_embeddings": length}
    return Case(name=f"sequence length={length}", model=model, batch_size=batch_size, sequence_length=length)


def _small(case: Case, family: str, count: int) -> Case:
    return Case(name=f"{family}={count}", model=case.model, batch_size=1, sequence_length=16)


def family(records: Sequence[Trained], name: str) -> dict[int, list[Trained]]:
    """The rounds of each number of a family."""
    found: dict[int, list[Trained]] = {}
    for one in records:
        own, _, number = one.case.partition("=")
        if own == name and one.error is None:
            found.setdefault(int(number), []).append(one)
    return found


def lines(records: Sequence[Trained], name: str) -> list[str]:
    """The table of a family as Markdown, and whether the aim is met."""
    numbers = family(records, name)
    if not numbers:
        return []
    rows = [
        f"| {name} | MFLOP per token | tokens/s | GFLOP/s | step, ms | log2 | others' load |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    speeds, previous = [], None  # of sizes that others left in peace
    for number, rounds in sorted(numbers.items()):
        seconds = statistics.median(step for one in rounds for step in one.measured_seconds)
        rate = rounds[0].tokens_per_step / seconds
        gigaflops = rate * rounds[0].flops_per_token / 1e9
        slope = "" if previous is None else f"{math.log2(seconds / previous):.2f}"
        foreign = statistics.median(one.foreign_share for one in rounds)
        if foreign <= QUIET_SHARE:
            speeds.append(gigaflops)
        rows.append(
            f"| {number} | {rounds[0].flops_per_token / 1e6:.1f} | {rate:.0f} | {gigaflops:.1f} "
            f"| {1000 * seconds:.1f} | {slope} | {load_text(foreign)} |"
        )
        previous = seconds
    if name.startswith("16 tokens"):
        return [*rows, "", f"- {_per_layer(numbers)}"]
    if len(speeds) < 2:
        return [*rows, "", "- too few sizes that others left in peace to tell how cost grows"]
    middle = (max(speeds) + min(speeds)) / 2
    worst = max(speeds) / middle - 1
    return [
        *rows,
        "",
        f"- GFLOP/s within {worst:.1%} of {middle:.1f} over {len(speeds)} undisturbed sizes (aim: {AIM:.0%})",
    ]


def _per_layer(numbers: dict[int, list[Trained]]) -> str:
    """A line through the steps' times by least squares."""
    points = [(n, 1000 * step) for n, rounds in numbers.items() for one in rounds for step in one.measured_seconds]
    slope, rest = statistics.linear_regression(*zip(*points, strict=True))
    return f"a step of 16 tokens takes {rest:.1f} ms and {slope:.2f} ms for each layer"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="of each process; the first two are not counted")
    add_flags(parser)
    wanted = parser.parse_args()
    programs = Programs.of(wanted)
    for round_ in range(wanted.rounds):
        for case in cases(wanted.only):
            # Steps of 16 tokens are over at once: more of them cost nothing.
            steps = 8 * wanted.steps if case.tokens_per_step < SEQUENCE_LENGTH else wanted.steps
            programs.train(OWN, case, steps=steps, round_=round_)
    records = read(programs.results, Trained)
    for name in FAMILIES:
        print("\n".join(["", *lines(records, name)]))


if __name__ == "__main__":
    main()
