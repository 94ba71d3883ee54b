"""From one process to two on the two cores: what a step of two ranks costs over an ideal one, and where.

Ideal are two runs that know nothing of each other, side by side, each with one thread and half of the batch: they have
the same arithmetic, and share memory and cache as the ranks do.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks.programs import OWN, Programs, add_flags  # noqa: E402
from benchmarks.train_cases import CASES, Case  # noqa: E402
from benchmarks.train_record import Trained, load_text, read  # noqa: E402

SIDE_BY_SIDE = "two runs side by side, half the batch each"
WAYS = {
    "sharded (ZeRO-3)": {},
    "sharded, ZeRO-2": {"sharded": "optimizer+gradients"},
    "replicated": {"data_parallel_replicate": 2, "data_parallel_shard": 1},
    "pipeline": {"pipeline_parallel": 2, "data_parallel_shard": 1},
    "tensor": {"tensor_parallel": 2, "data_parallel_shard": 1},
    "experts": {"expert_parallel": 2},
}
"""What `parallelism` says to two processes."""


def two_ranks(case: Case, way: str) -> Case:
    """The case on two processes."""
    sections = {"parallelism": WAYS[way]}
    if way in ("pipeline", "tensor"):  # every rank sees the whole batch: two micro-batches of it
        sections["training"] = {"micro_batch_size": case.batch_size // 2}
    return replace(case, name=f"{case.name}: {way}", processes=2, sections=sections)


def side_by_side(programs: Programs, case: Case, steps: int, round_: int) -> None:
    """Two runs at once, each with one thread."""
    half = replace(case, name=f"{case.name}: {SIDE_BY_SIDE}", batch_size=case.batch_size // 2)
    alone = replace(programs, threads=1, retries=0)  # each is a disturbance to the other
    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(alone.train, OWN, half, steps=steps, round_=round_) for _ in range(2)]:
            one.result()


def lines(records: Sequence[Trained], case: Case) -> list[str]:
    """The table of one model as Markdown."""
    rows = [
        "| how | step, s | over the ideal | forward and backward | optimizer | longest wait | memory of a rank "
        "| others' load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    found: dict[str, list[Trained]] = {}
    for one in records:
        name, _, way = one.case.partition(": ")
        if name == case.name:
            found.setdefault(way, []).append(one)
    if not found:
        return []
    ideal = _seconds(found.get(SIDE_BY_SIDE, []))
    for way, rounds in found.items():
        seconds = _seconds(rounds)
        if seconds is None:
            rows.append(f"| {way} | failed: {rounds[0].error} | | | | | | |")
            continue
        over = f"{1000 * (seconds - ideal):.0f} ms, {seconds / ideal - 1:.1%}" if ideal else ""
        spans = " | ".join(_span(rounds, name) for name in ("forward_backward", "optimizer", "longest wait"))
        gigabytes = max(one.peak_bytes for one in rounds) / 1e9
        foreign = statistics.median(one.foreign_share for one in rounds)
        others = "each other" if way == SIDE_BY_SIDE else load_text(foreign)
        rows.append(f"| {way} | {seconds:.3f} | {over} | {spans} | {gigabytes:.2f} GB | {others} |")
    return rows


def _seconds(rounds: Sequence[Trained]) -> float | None:
    steps = [step for one in rounds if one.error is None for step in one.measured_seconds]
    return statistics.median(steps) if steps else None


def _span(rounds: Sequence[Trained], name: str) -> str:
    found = [one.spans[name] for one in rounds if name in one.spans]
    return f"{statistics.median(found):.3f} s" if found else ""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="of each process; the first two are not counted")
    add_flags(parser)
    wanted = parser.parse_args()
    programs = Programs.of(wanted)
    for round_ in range(wanted.rounds):
        for case in (CASES[name] for name in wanted.model):
            for threads in (1, 2):
                named = replace(case, name=f"{case.name}: one process, threads {threads}")
                replace(programs, threads=threads).train(OWN, named, steps=wanted.steps, round_=round_)
            side_by_side(programs, case, wanted.steps, round_)
            for way in WAYS:
                if way != "experts" or case.name == "moe":
                    programs.train(OWN, two_ranks(case, way), steps=wanted.steps, round_=round_)
    for name in wanted.model:
        print("\n".join(["", name, *lines(read(programs.results, Trained), CASES[name])]))


if __name__ == "__main__":
    main()
