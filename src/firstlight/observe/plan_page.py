"""Draws what a plan says as a single HTML page: memory of each place of the pipeline, and who computes when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from firstlight.observe import page
from firstlight.observe.figure import COLORS, Chart, blank_figure

_KINDS = {"F": "forward", "B": "backward", "I": "gradient of the input", "W": "gradients of weights"}
_MOST_BLOCKS = 6000
_GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Bytes of a place, by what they are for."""

    name: str
    parts: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Something that a rank of the pipeline does, from and to seconds since the step began."""

    rank: int
    begin: float
    end: float
    kind: str
    stage: int
    number: int
    """Of the micro-batch."""


def write_plan(title: str, bars: Sequence[Bar], capacity: float, blocks: Sequence[Block], output: Path) -> Path:
    """Write the page to the file `output` and return its path. It needs no network."""
    charts = [_memory(bars, capacity), _timeline(blocks)]
    body = [page.heading(title, "Firstlight plan"), page.chart_grid(charts)]
    text = page.page(title=f"Firstlight plan: {title}", plotly_script=get_plotlyjs(), axes={}, body=body)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    return output


def _memory(bars: Sequence[Bar], capacity: float) -> Chart:
    figure = blank_figure(height=max(260, 90 + 28 * len(bars)))
    for index, part in enumerate(bars[0].parts):
        figure.add_trace(
            go.Bar(
                x=[bar.parts[part] / _GIGABYTE for bar in bars],
                y=[bar.name for bar in bars],
                name=part,
                orientation="h",
                marker={"color": COLORS[index % len(COLORS)], "line": {"width": 0}},
            )
        )
    figure.add_vline(x=capacity / _GIGABYTE, line={"color": COLORS[3], "width": 2, "dash": "dash"})
    figure.update_layout(barmode="stack", hovermode="closest", bargap=0.3)
    figure.update_xaxes(ticksuffix=" GB")
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    note = "the first rank of each place of the pipeline; dashed: what a device has"
    return Chart(title="Memory", note=note, figure=figure, is_wide=True)


def _timeline(blocks: Sequence[Block]) -> Chart:
    """A trace of each kind. Two that overlap share the rank's row."""
    shown = sorted(blocks, key=lambda block: block.begin)[:_MOST_BLOCKS]
    ranks = 1 + max((block.rank for block in shown), default=0)
    figure = blank_figure(height=max(260, 90 + 28 * ranks))
    for index, (kind, name) in enumerate(_KINDS.items()):
        here = [block for block in shown if block.kind == kind]
        if here:
            figure.add_trace(
                go.Bar(
                    base=[block.begin for block in here],
                    x=[block.end - block.begin for block in here],
                    y=[f"rank {block.rank}" for block in here],
                    text=[f"stage {block.stage}, micro-batch {block.number}" for block in here],
                    textposition="none",
                    name=name,
                    orientation="h",
                    opacity=0.75,
                    marker={"color": COLORS[index], "line": {"width": 0.5, "color": "rgba(0,0,0,0.35)"}},
                )
            )
    figure.update_layout(barmode="overlay", hovermode="closest", bargap=0.15)
    figure.update_xaxes(ticksuffix=" s")
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    note = "one rank of each place of the pipeline, from the beginning of a step"
    if len(blocks) > len(shown):
        note += f"; the first {len(shown):,} of {len(blocks):,} passes"
    return Chart(title="Pipeline", note=note, figure=figure, is_wide=True)
