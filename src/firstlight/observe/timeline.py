"""What happened in a run beside its steps, on one line for each kind."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from firstlight.observe.events import Event, EventKind
from firstlight.observe.figure import COLORS, GREY, Chart, blank_figure, escaped
from firstlight.observe.history import History

EVENTS_AXIS = "#events"
"""Follows the number of the run in the name of the positions of its events of a kind."""

_RED = "#e0563c"
_COLOR_OF: Mapping[EventKind, str] = {
    "start": COLORS[2],
    "checkpoint": COLORS[0],
    "evaluation": COLORS[4],
    "profile": COLORS[6],
    "skip": COLORS[1],
    "rewind": COLORS[1],
    "alert": _RED,
    "fault": _RED,
    "stop": GREY,
}
_MOST_WORDS = 120


def timeline(runs: Sequence[History]) -> Chart | None:
    """Every event of the runs; None when there are none."""
    figure = blank_figure(height=120)
    kinds = []
    for number, run in enumerate(runs):
        for kind, events in by_kind(run).items():
            label = kind if len(runs) == 1 else f"{run.name}, {kind}"
            kinds.append(label)
            figure.add_trace(_points(events, kind, label, f"{number}{EVENTS_AXIS}/{kind}"))
    if not kinds:
        return None
    figure.update_layout(height=90 + 26 * len(kinds), hovermode="closest")
    figure.update_yaxes(type="category", autorange="reversed")
    note = "starts, checkpoints, evaluations, alerts and what went wrong; point at one to read it"
    return Chart(title="Events", note=note, figure=figure, is_wide=True, has_legend=False)


def by_kind(run: History) -> dict[EventKind, list[Event]]:
    """The run's events, by kind in the order in which kinds appear."""
    found: dict[EventKind, list[Event]] = {}
    for event in run.events:
        found.setdefault(event.kind, []).append(event)
    return found


def event_positions(run: History, number: int) -> dict[str, dict[str, list[Any]]]:
    """The positions of the events of each kind, by step and by tokens; see `charts.axes`."""
    return {
        f"{number}{EVENTS_AXIS}/{kind}": {
            "step": [event.step for event in events],
            "tokens": [_tokens_at(run, event.step) for event in events],
        }
        for kind, events in by_kind(run).items()
    }


def _tokens_at(run: History, step: int) -> float | None:
    """Tokens consumed after `step`: a record's, or in proportion between two."""
    steps: list[int] = [line["step"] for line in run.steps]
    at = bisect_left(steps, step)
    after = run.steps[min(at, len(steps) - 1)]
    before: Mapping[str, Any] = run.steps[at - 1] if at else {"step": 0, "tokens": 0}
    if after.get("tokens") is None or before.get("tokens") is None:
        return None
    span = after["step"] - before["step"]
    share = (step - before["step"]) / span if span else 1.0
    return float(before["tokens"] + min(share, 1.0) * (after["tokens"] - before["tokens"]))


def _points(events: Sequence[Event], kind: EventKind, label: str, axis: str) -> Any:
    return go.Scatter(
        x=[event.step for event in events],
        y=[escaped(label)] * len(events),
        text=[escaped(event.text[:_MOST_WORDS]) for event in events],
        meta=axis,
        name=escaped(label),
        mode="markers",
        line={"color": _COLOR_OF.get(kind, GREY)},
        marker={"size": 10, "color": _COLOR_OF.get(kind, GREY), "symbol": "diamond" if kind == "alert" else "circle"},
        hovertemplate="%{x}: %{text}<extra></extra>",
    )
