"""Heat maps of a report: experts by layer, and ranks, over the steps."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from firstlight.observe.figure import GREY, Chart, blank_figure, escaped
from firstlight.observe.history import History
from firstlight.observe.record import EXPERT_PREFIX, EXPOSED

RANKS_AXIS = "#ranks"
"""Follows the number of the run in the name of the positions of its tables of ranks."""

_SCALE = ((0.0, "#22385f"), (0.25, "#3a6fd0"), (0.5, "#3fa67f"), (0.75, "#e0b23c"), (1.0, "#e0563c"))
"""From cool to hot; it stands out from white as from near-black."""

_MOST_ROWS_NAMED = 32
_RANK_FIGURES = (
    ("step_seconds", "Step time by rank", "seconds per step of each rank; ranks that wait for each other look alike"),
    (
        "wait_seconds",
        "Waiting by rank",
        "seconds in the sum that ends a step; the rank that waits least holds up the rest",
    ),
    (
        EXPOSED,
        "Exposed communication by rank",
        "seconds of a step's passes in which a rank only waits for data of others",
    ),
)


def heat_maps(run: History, number: int, *, is_only: bool) -> list[Chart]:
    """The maps for which the run has numbers; without `is_only`, the run's name is in their titles."""
    suffix = "" if is_only else f", {run.name}"
    found = [
        _expert_map(run, number, "max_vio", f"Expert load by layer{suffix}", "max load / mean load - 1; 0 is even")
    ]
    entropy = "entropy of the load over that of an even one; 1 is even, 0 is a single expert"
    found.append(_expert_map(run, number, "entropy", f"Expert entropy by layer{suffix}", entropy))
    found += [_rank_map(run, number, name, f"{title}{suffix}", note) for name, title, note in _RANK_FIGURES]
    return [chart for chart in found if chart is not None]


def _expert_map(run: History, number: int, figure: str, title: str, note: str) -> Chart | None:
    names = [name for name in run.names(EXPERT_PREFIX) if name.endswith(f"/{figure}")]
    if not names:
        return None
    rows = [run.column(EXPERT_PREFIX + name) for name in names]
    layers = [name.removesuffix(f"/{figure}") for name in names]
    return Chart(
        title=title, note=note, figure=_map(run.steps, rows, layers, f"{number}/", is_reversed=figure == "entropy")
    )


def _rank_map(run: History, number: int, name: str, title: str, note: str) -> Chart | None:
    lines = [line for line in run.ranks if isinstance(line.get(name), list)]
    count = max((len(line[name]) for line in lines), default=0)
    if count < 2:
        return None
    # a run that went on with fewer ranks has fewer rows from there on
    rows = [[line[name][rank] if rank < len(line[name]) else None for line in lines] for rank in range(count)]
    return Chart(
        title=title, note=note, figure=_map(lines, rows, [f"rank {n}" for n in range(count)], f"{number}{RANKS_AXIS}")
    )


def _map(
    lines: Sequence[Any],
    rows: Sequence[Sequence[float | None]],
    labels: Sequence[str],
    axis: str,
    *,
    is_reversed: bool = False,
) -> Any:
    figure = blank_figure(height=min(120 + 22 * len(rows), 520))
    trace = go.Heatmap(
        x=[line["step"] for line in lines],
        y=[escaped(label) for label in labels],
        z=[list(row) for row in rows],
        meta=axis,
        colorscale=[list(stop) for stop in _SCALE],
        reversescale=is_reversed,
        colorbar={"thickness": 10, "outlinewidth": 0, "tickfont": {"color": GREY}},
        hovertemplate="%{y}, %{x}: %{z:.4~g}<extra></extra>",
    )
    figure.add_trace(trace)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(
        type="category", autorange="reversed", showgrid=False, showticklabels=len(rows) <= _MOST_ROWS_NAMED
    )
    return figure
