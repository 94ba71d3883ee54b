"""Writes the tables of published runs and their forecasts into docs/planner.md. Takes a minute."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks.published.accuracy import Compared, compared, fitted, median_error  # noqa: E402
from benchmarks.published.deepseek import PUBLISHED, parts  # noqa: E402
from benchmarks.published.runs import TABLE, Published, published_runs  # noqa: E402

TARGET = ROOT / "docs" / "planner.md"
BEGIN, END = "<!-- accuracy: written by scripts/write_planner.py -->\n", "<!-- end of accuracy -->\n"


def written() -> str:
    """The tables of today."""
    runs = published_runs()
    before = compared(runs)
    found = fitted(before)
    lines = [
        *_summary(found),
        _of_systems(fitted(before, by_system=True)),
        "",
        *_table(found),
        "",
        *_memory(found),
        "",
        *_parts(runs),
    ]
    return "\n".join(lines) + "\n"


def _summary(found: Sequence[Compared]) -> Iterator[str]:
    counted = [one for one in found if one.is_counted]
    errors = [abs(one.error or 0.0) for one in counted]
    flops = [abs(one.run.flops_error or 0.0) for one in found if one.run.counts_flops]
    again = [one for one in counted if one.fitted_error is not None]
    yield (
        f"FLOPs of a token: {len(flops)} runs publish a speed in tokens and in FLOPs, or a utilisation; the largest "
        f"error is {_percent(max(flops))} and the median {_percent(sorted(flops)[len(flops) // 2])}."
    )
    yield ""
    largest = max(abs(one.fitted_error or 0.0) for one in again)
    yield (
        f"Time of a step: {len(counted)} of {len(found)} rows are counted. Median error "
        f"{_percent(median_error(found))}, largest {_percent(max(errors))}. After one run of each device and precision "
        f"has set its speed, median {_percent(median_error(found, is_fitted=True))}, largest {_percent(largest)}, over "
        f"the {len(again)} other runs."
    )


def _of_systems(found: Sequence[Compared]) -> str:
    again = [one for one in found if one.is_counted and one.fitted_error is not None]
    largest = max(abs(one.fitted_error or 0.0) for one in again)
    return (
        f"After one run of each device, precision and system (as a team fits a profile to its own run), median "
        f"{_percent(median_error(found, is_fitted=True))}, largest {_percent(largest)}, over {len(again)} runs."
    )


def _table(found: Sequence[Compared]) -> Iterator[str]:
    yield "| run | source | device | precision | FLOPs | measured, s | planned, s | error | fitted | remark |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for one in found:
        run = one.run
        fit = "fitted to it" if one.fitted_to == run.id else _signed(one.fitted_error)
        cells = [
            run.id,
            run.row["source"].split(" (values")[0],
            run.described.hardware,
            run.row["precision"],
            _signed(run.flops_error),
            "" if one.measured is None else f"{one.measured:.3g}",
            "" if one.plan is None else f"{one.plan.step.total:.3g}",
            _signed(one.error),
            fit,
            _remark(run),
        ]
        yield f"| {' | '.join(cells)} |"


def _memory(found: Sequence[Compared]) -> Iterator[str]:
    """The place of the pipeline that needs most; reports give the allocator's peak."""
    yield "| run | measured, GiB | planned, GiB | error |"
    yield "| --- | --- | --- | --- |"
    for one in found:
        measured = one.run.number("mem_gib")
        if measured is not None and one.plan is not None:
            planned = max(memory.total for memory in one.plan.memory) / 2**30
            yield f"| {one.run.id} | {measured:.1f} | {planned:.1f} | {_signed(planned / measured - 1)} |"


def _remark(run: Published) -> str:
    described = run.described
    if described.doubt:
        return f"not counted: {described.doubt}"
    return f"FLOPs not counted: {described.doubted_flops}" if described.doubted_flops else ""


def _parts(runs: Sequence[Published]) -> Iterator[str]:
    found = parts(next(run for run in runs if run.id == "dsv3-official-mpft"))
    yield "| part of DeepSeek-V3's step | published, s | planned, s | error |"
    yield "| --- | --- | --- | --- |"
    for name, seconds in PUBLISHED.items():
        yield f"| {name} | {seconds:.2f} | {found[name]:.2f} | {_signed(found[name] / seconds - 1)} |"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f} %"


def page(text: str) -> str:
    """The page with the tables of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{written()}{END}{after}"


if __name__ == "__main__":
    if not TABLE.exists():
        sys.exit(f"the table of published runs is not at {TABLE}")
    TARGET.write_text(page(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")
