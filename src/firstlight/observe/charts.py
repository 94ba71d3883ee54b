"""The charts of a report, as plotly figures that read on a light and on a dark page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from firstlight.observe.figure import COLORS, GREY, Chart, blank_figure, escaped
from firstlight.observe.heat_maps import RANKS_AXIS, heat_maps
from firstlight.observe.history import History, Line
from firstlight.observe.record import (
    EXPOSED,
    GRAD_NORM_PREFIX,
    LOSS_PREFIX,
    MAX_VIO,
    PAUSES,
    SECONDS_PREFIX,
    UPDATE_NORM_PREFIX,
    WEIGHT_NORM_PREFIX,
)
from firstlight.observe.timeline import event_positions, timeline

_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up")
_OTHER = "other"
_PASSES = "forward_backward"
_EXPOSED = "communication"
"""The part of the passes in which a rank only waits for data of others."""


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A chart that draws one figure of each run."""

    name: str
    title: str
    note: str
    format: str = ""
    scale: float = 1.0


_FIGURES = (
    _Figure(name="learning_rate", title="Learning rate", note="of each logged step", format=".1e"),
    _Figure(name="grad_norm", title="Gradient norm", note="global, before clipping"),
    _Figure(name="tokens_per_second", title="Throughput", note="tokens per second, all ranks", format=",~s"),
    _Figure(name="mfu", title="Model FLOPs utilisation", note="share of the peak of all ranks", format=".2~p"),
    _Figure(name=MAX_VIO, title="Expert load", note="max load / mean load - 1, the worst layer; 0 is even"),
    _Figure(name="memory_bytes", title="Peak memory", note="GB", scale=1e-9),
    _Figure(
        name="pipeline_bubble",
        title="Pipeline bubble",
        note="share of a step in which stages wait, mean of all ranks",
        format=".0~%",
    ),
    _Figure(name="skipped_steps", title="Skipped steps", note="updates left out since the previous record"),
)


@dataclass(frozen=True, kw_only=True)
class _Grouped:
    """A chart with a line for each group of modules."""

    prefix: str
    title: str
    note: str


_GROUPED = (
    _Grouped(prefix=GRAD_NORM_PREFIX, title="Gradient norm by group", note="of each group of modules, before clipping"),
    _Grouped(prefix=WEIGHT_NORM_PREFIX, title="Weight norm by group", note="after the step"),
    _Grouped(prefix=UPDATE_NORM_PREFIX, title="Update norm by group", note="of the change that one step makes"),
)


def charts(runs: Sequence[History]) -> list[Chart]:
    """Every chart for which some run has numbers."""
    found = [_loss(runs), _loss_parts(runs)]
    found += [_single(runs, figure) for figure in _FIGURES]
    found.insert(5, _time_by_step(runs[0]) if len(runs) == 1 else _time_by_run(runs))
    if len(runs) == 1:
        found += [_by_group(runs[0], group) for group in _GROUPED]
    for number, run in enumerate(runs):
        found += heat_maps(run, number, is_only=len(runs) == 1)
    drawn = _without_gap([chart for chart in found if chart is not None])
    events = timeline(runs)
    return [drawn[0], events, *drawn[1:]] if events is not None else drawn


def _without_gap(found: list[Chart]) -> list[Chart]:
    """Charts stand in two columns; one that is left alone in the last row takes both."""
    is_alone = sum(not chart.is_wide for chart in found) % 2 == 1
    return [*found[:-1], replace(found[-1], is_wide=True)] if is_alone else found


def axes(runs: Sequence[History]) -> dict[str, dict[str, list[Any]]]:
    """The positions of each series by step and by tokens; a trace names its series in `meta`."""
    found = {}
    for number, run in enumerate(runs):
        found[_axis(number)] = _positions(run.steps)
        for name, lines in run.evaluations.items():
            found[_axis(number, name)] = _positions(lines)
        found[f"{number}{RANKS_AXIS}"] = _positions(run.ranks)
        found |= event_positions(run, number)
    return found


def _axis(number: int, held_out: str = "") -> str:
    return f"{number}/{held_out}"


def _positions(lines: Sequence[Line]) -> dict[str, list[Any]]:
    return {unit: [line.get(unit) for line in lines] for unit in ("step", "tokens")}


def _loss(runs: Sequence[History]) -> Chart:
    figure = blank_figure(height=420)
    for number, run in enumerate(runs):
        label = "training" if len(runs) == 1 else run.name
        figure.add_trace(
            _line(runs, number, run.column(run.token_loss), name=label, color=COLORS[number % len(COLORS)])
        )
        for index, (name, lines) in enumerate(run.evaluations.items()):
            figure.add_trace(_held_out(runs, number, index, name, lines))
    note = "of the next token, in nats; line: logged steps of training, points: held-out sets"
    sizes = {run.vocabulary_size for run in runs}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is not None:
        note += f"; dashed: untrained, ln({size:,}) = {math.log(size):.2f}"
        figure.add_hline(y=math.log(size), line={"color": GREY, "width": 1, "dash": "dash"})
    return Chart(title="Loss", note=note, figure=figure, is_wide=True)


def _held_out(runs: Sequence[History], number: int, index: int, name: str, lines: Sequence[Line]) -> Any:
    color = COLORS[(index + 1 if len(runs) == 1 else number) % len(COLORS)]
    label = name if len(runs) == 1 else f"{runs[number].name}, {name}"
    return go.Scatter(
        x=[line["step"] for line in lines],
        y=[line.get("loss") for line in lines],
        meta=_axis(number, name),
        name=escaped(label),
        mode="markers+lines",
        line={"color": color, "width": 1, "dash": "dot"},
        marker={"size": 8, "symbol": _SYMBOLS[index % len(_SYMBOLS)], "color": color},
    )


def _loss_parts(runs: Sequence[History]) -> Chart | None:
    """One colour for each part of a single run; of several runs, the colour is the run and the dash the part."""
    parts = list(dict.fromkeys(part for run in runs for part in run.names(LOSS_PREFIX)))
    if len(parts) < 2:
        return None
    figure = blank_figure()
    names = {part: LOSS_PREFIX + part for part in parts} | {"total": "loss"}
    is_only = len(runs) == 1
    for number, run in enumerate(runs):
        for index, (part, name) in enumerate(names.items()):
            if not run.has(name):
                continue
            color = COLORS[(index if is_only else number) % len(COLORS)]
            label = part if is_only else f"{run.name}, {part}"
            trace = _line(runs, number, run.column(name), name=label, color=color)
            trace.line.dash = "solid" if is_only else _DASHES[index % len(_DASHES)]
            figure.add_trace(trace)
    return Chart(title="Parts of the loss", note="each before its weight; the total is with weights", figure=figure)


def _single(runs: Sequence[History], drawn: _Figure) -> Chart | None:
    if not any(value for run in runs for value in run.column(drawn.name)):
        return None
    figure = blank_figure()
    for number, run in enumerate(runs):
        if run.has(drawn.name):
            values = [None if value is None else value * drawn.scale for value in run.column(drawn.name)]
            figure.add_trace(_line(runs, number, values, name=run.name, color=COLORS[number % len(COLORS)]))
    figure.update_yaxes(tickformat=drawn.format, rangemode="tozero")
    return Chart(title=drawn.title, note=drawn.note, figure=figure)


def _by_group(run: History, grouped: _Grouped) -> Chart | None:
    groups = run.names(grouped.prefix)
    if not groups:
        return None
    figure = blank_figure()
    for index, group in enumerate(groups):
        color = COLORS[index % len(COLORS)]
        trace = _line([run], 0, run.column(grouped.prefix + group), name=group, color=color)
        trace.line.dash = _DASHES[index // len(COLORS) % len(_DASHES)]
        figure.add_trace(trace)
    figure.update_yaxes(type="log", tickformat=".0~e", dtick=_decades(run, groups, grouped.prefix))
    return Chart(title=grouped.title, note=grouped.note, figure=figure)


def _decades(run: History, groups: Sequence[str], prefix: str) -> int | str:
    """Plotly's step between ticks of a logarithmic axis: whole decades, or 1, 2, 5 where there are few of them."""
    values = [value for group in groups for value in run.column(prefix + group) if value]
    span = math.log10(max(values) / min(values)) if values else 0.0
    return "D2" if span < 2 else max(1, round(span / 5))


def _time_by_step(run: History) -> Chart | None:
    split = _time_split(run)
    if not split:
        return None
    figure = blank_figure()
    for index, (name, values) in enumerate(split.items()):
        color = _span_color(name, index)
        trace = _line([run], 0, list(values), name=name, color=color)
        # a record's means are of the steps before it
        trace.update(stackgroup="time", fillcolor=color, line={"width": 0, "shape": "vh"})
        figure.add_trace(trace)
    figure.update_yaxes(rangemode="tozero")
    note = "seconds per step; pauses spread over the steps since the previous record"
    return Chart(title="Where the time goes", note=note, figure=figure)


def _time_by_run(runs: Sequence[History]) -> Chart | None:
    splits = [_time_split(run) for run in runs]
    figure = blank_figure(height=max(300, 120 + 36 * len(runs)))
    for index, name in enumerate(dict.fromkeys(name for split in splits for name in split)):
        means = [_mean(run, split[name]) if name in split else None for run, split in zip(runs, splits, strict=True)]
        bar = go.Bar(
            x=means,
            y=[escaped(run.name) for run in runs],
            name=escaped(name),
            orientation="h",
            marker={"color": _span_color(name, index), "line": {"width": 0}},
        )
        figure.add_trace(bar)
    if not figure.data:
        return None
    figure.update_layout(barmode="stack", hovermode="closest", bargap=0.4)
    figure.update_xaxes(ticksuffix=" s")
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return Chart(title="Where the time goes", note="mean seconds per step, over the run", figure=figure)


def _mean(run: History, values: Sequence[float]) -> float:
    """Over the steps: each record speaks for the steps since the one before it, the first for itself."""
    steps: list[int] = [line["step"] for line in run.steps]
    counts = [1, *(after - before for before, after in pairwise(steps))]
    return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)


def _time_split(run: History) -> dict[str, list[float]]:
    """Seconds per step of each span, at each record; "other" is what no span accounts for. Empty without spans."""
    names = run.names(SECONDS_PREFIX)
    split = {name: [value or 0.0 for value in run.column(SECONDS_PREFIX + name)] for name in names}
    if not split:
        return {}
    if run.has(EXPOSED) and _PASSES in split:
        split = _with_exposed(split, run.column(EXPOSED))
        names.append(_EXPOSED)
    accounted = [sum(values) for values in zip(*(split[name] for name in names if name not in PAUSES), strict=True)]
    steps = run.column("step_seconds")
    if accounted:
        split[_OTHER] = [max((step or 0.0) - spans, 0.0) for step, spans in zip(steps, accounted, strict=True)]
    return split


def _with_exposed(split: dict[str, list[float]], column: Sequence[float | None]) -> dict[str, list[float]]:
    """With exposed communication beside the rest of the passes that it is a part of."""
    exposed = [min(one or 0.0, passes) for one, passes in zip(column, split[_PASSES], strict=True)]
    found: dict[str, list[float]] = {}
    for name, values in split.items():
        found[name] = values
        if name == _PASSES:
            found[name] = [passes - part for passes, part in zip(values, exposed, strict=True)]
            found[_EXPOSED] = exposed
    return found


def _span_color(name: str, index: int) -> str:
    return GREY if name == _OTHER else COLORS[index % len(COLORS)]


def _line(runs: Sequence[History], number: int, values: Sequence[float | None], *, name: str, color: str) -> Any:
    return go.Scatter(
        x=[line["step"] for line in runs[number].steps],
        y=list(values),
        meta=_axis(number),
        name=escaped(name),
        mode="lines" if len(values) > 1 else "markers",
        line={"color": color, "width": 1.5},
    )
