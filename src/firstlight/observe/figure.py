"""A plotly figure in the look of the page, and what stands around it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

COLORS = ("#4f86e0", "#e28743", "#3fa67f", "#cf5f86", "#8e74d6", "#c2a02e", "#4fb3c4", "#9a7b62")
"""Of runs, or of the series of a single run. Mid-tones: they stand out from white as from near-black."""

GREY = "#7f8893"
_GRID = "rgba(127, 136, 147, 0.18)"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure with what stands around it on the page."""

    title: str
    note: str
    figure: Any
    is_wide: bool = False
    has_legend: bool = True


def blank_figure(*, height: int = 300) -> Any:
    """A plotly figure without traces, in the look of the page."""
    axis: Mapping[str, Any] = {
        "gridcolor": _GRID,
        "zeroline": False,
        "linecolor": _GRID,
        "automargin": True,
    }
    layout = go.Layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 12, "family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"},
        xaxis={**axis, "spikecolor": GREY, "spikethickness": 1},
        yaxis={**axis, "hoverformat": ".5~g"},
        hovermode="x unified",
        hoverlabel={"bgcolor": "#1c2026", "bordercolor": "#1c2026", "font": {"color": "#e8eaed"}, "namelength": -1},
        # the page has its own legend: plotly's takes its room from the plot, and on a phone all of it
        showlegend=False,
    )
    figure = go.Figure(layout=layout)
    figure.layout.template = None
    return figure


def escaped(text: str) -> str:
    """Text for plotly, which reads labels as a small HTML and knows these three entities."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
