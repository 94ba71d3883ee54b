"""Writes docs/benchmarks.md from the records of benchmarks.

Records lie in benchmarks/results. With --from FOLDER (runs/benchmarks after `make bench`), those of that folder are
taken there first.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks import bench_growth, bench_largest, bench_long_context, bench_scaling, bench_start  # noqa: E402
from benchmarks.train_cases import CASES  # noqa: E402
from benchmarks.train_record import QUIET_SHARE, WARM_UP_STEPS, Limit, Trained, read  # noqa: E402
from benchmarks.train_table import heading, limit_line  # noqa: E402
from benchmarks.train_table import lines as train_lines  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
PRINTED = {
    "bench_checkpoint": "Saving and loading checkpoints",
    "bench_data": "Data: preparing, opening, reading",
    "bench_memory": "Memory by layout and by what is recomputed",
    "bench_observe": "The cost of monitoring",
}
"""Benchmarks whose printed tables are shown as they are."""

HEAD = f"""# Benchmarks

Written by `scripts/write_benchmarks.py` from the records in `benchmarks/results`; `make bench` measures anew (about an
hour and a half on two cores) and writes this page. What the figures advise is in the [guides](README.md).

**How to read them.**
- Programs run in turn, each in a process of its own, round after round; who begins changes. Firstlight is
  `firstlight train` on a prepared data set (the source of Python's standard library), timed by its own
  `metrics.jsonl`; the others have the same tokens in memory and are timed from forward pass to cleared gradients.
- All train in fp32 with AdamW (the fused one of torch), gradients clipped to norm 1, and no recomputation unless a
  table says so. Parameter counts are held to Firstlight's own, and the first loss to ln(vocabulary).
- FLOPs per token: 6 for each matrix parameter that a token meets, the causal half of attention, the head; not the
  look-up of embeddings, and nothing for recomputation. The formula is in `src/firstlight/layout/counts.py`, for the
  other programs too.
- *tokens/s* is of the median step of all rounds, *rounds* the least and the most of the rounds' medians. The first
  {WARM_UP_STEPS} steps of a process do not count, nor do steps in which other processes took more than
  {QUIET_SHARE:.0%} of the machine, while two others are left.
- *others' load* is the share of the machine that other processes took meanwhile (or the hypervisor said it took). What
  neighbours on the same processor do to its caches, memory and clock is not seen there: the same step may differ by a
  third within a minute. *fastest step* is what is least disturbed. A figure that is marked *disturbed* is no measure
  of the program; no ratio is made of it.
- *settings*: "as found", or with glibc's allocator told to keep what is freed (`MALLOC_TOP_PAD_=1000000000`,
  `MALLOC_MMAP_THRESHOLD_=4000000000`, `MALLOC_TRIM_THRESHOLD_=8000000000`). Firstlight runs with what its own launcher
  sets.
- *peak memory* is the most that the process was given by the kernel, up to the last step.
"""


def section(title: str, words: str, lines: Iterable[str], records: Sequence[Trained | bench_start.Waited]) -> list[str]:
    """A part of the page, with where its figures are from."""
    versions = sorted({f"{name} {value}" for one in records for name, value in getattr(one, "versions", {}).items()})
    times = [one.time for one in records]
    begin, end = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment)) for moment in (min(times), max(times)))
    source = f"Measured {begin} to {end} UTC on {records[0].machine}"
    return ["", f"## {title}", words, "", *lines, "", f"{source}{'; ' if versions else ''}{', '.join(versions)}."]


def page(results: Path) -> str:
    """The whole page; a benchmark without records has no part in it."""
    parts = [HEAD.rstrip("\n"), *_side_by_side(results / "train.jsonl")]
    for name, title, words, lines in (
        ("long_context", "Long sequences", bench_long_context.__doc__, bench_long_context.lines),
        ("largest", "The largest model in 8 GB", bench_largest.__doc__, bench_largest.lines),
    ):
        if records := read(results / f"{name}.jsonl", Trained):
            parts += section(title, _words(words), lines(records), records)
    if records := read(results / "growth.jsonl", Trained):
        tables = _joined(bench_growth.lines(records, name) for name in bench_growth.FAMILIES)
        parts += section("Growth of cost", _words(bench_growth.__doc__), tables, records)
    if records := read(results / "scaling.jsonl", Trained):
        found = {name: bench_scaling.lines(records, case) for name, case in CASES.items()}
        tables = _joined([f"### {name}", *rows] for name, rows in found.items() if rows)
        parts += section("From one process to two", _words(bench_scaling.__doc__), tables, records)
    if waits := read(results / "start.jsonl", bench_start.Waited):
        parts += section("Waiting", _words(bench_start.__doc__), bench_start.lines(waits), waits)
    for name, title in PRINTED.items():
        if (results / f"{name}.txt").exists():
            parts += ["", f"## {title}", "```text", (results / f"{name}.txt").read_text().strip("\n"), "```"]
    return "\n".join(parts) + "\n"


def _side_by_side(path: Path) -> list[str]:
    records = read(path, Trained, Limit)
    trained = [one for one in records if isinstance(one, Trained)]
    if not trained:
        return []
    tables = [f"{limit_line(records)}."]
    for case in CASES.values():
        if any(one.case == case.name for one in trained):
            tables += ["", f"### {heading(case)}", *train_lines(records, case)]
    words = "The same models, tokens and threads with Firstlight and with the programs that people train with."
    rounds = len({one.round for one in trained})
    return section("Training beside other programs", f"{words} Rounds: {rounds}.", tables, trained)


def _joined(tables: Iterable[Sequence[str]]) -> list[str]:
    """One after the other with a line between them; empty ones left out."""
    return "\n\n".join("\n".join(lines) for lines in tables if lines).splitlines()


def _words(text: str | None) -> str:
    return (text or "").strip()


def main() -> None:
    """Take the records, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, help="a folder with records of new measurements")
    wanted = parser.parse_args()
    if wanted.source is not None:
        RESULTS.mkdir(exist_ok=True)
        for path in (*wanted.source.glob("*.jsonl"), *wanted.source.glob("bench_*.txt")):
            shutil.copyfile(path, RESULTS / path.name)
    PAGE.write_text(page(RESULTS))


if __name__ == "__main__":
    main()
