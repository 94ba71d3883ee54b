"""A chart's legend in HTML: it wraps as text does, and takes no room from the plot."""

from typing import Any

_DASHES = {"dash": "6 3", "dot": "2 3", "dashdot": "6 3 2 3"}


def legend(figure: Any) -> str:
    """A button for each trace of a plotly figure, which hides and shows it; nothing for a single trace."""
    if len(figure.data) < 2:
        return ""
    buttons = [
        # a trace's name is escaped already, for plotly
        f'<button type="button" data-trace="{index}" aria-pressed="true">{_swatch(trace)}{trace.name}</button>'
        for index, trace in enumerate(figure.data)
    ]
    return f'<div class="legend">{"".join(buttons)}</div>'


def _swatch(trace: Any) -> str:
    if trace.type == "bar":
        return _svg(_square(trace.marker.color), width=10)
    if trace.stackgroup:
        return _svg(_square(trace.fillcolor), width=10)
    color = trace.line.color
    dash = f' stroke-dasharray="{_DASHES[trace.line.dash]}"' if trace.line.dash in _DASHES else ""
    line = f'<line x1="0" y1="5" x2="22" y2="5" stroke="{color}" stroke-width="2"{dash}/>'
    point = f'<circle cx="11" cy="5" r="4" fill="{color}"/>' if "markers" in trace.mode else ""
    return _svg(line + point, width=22)


def _square(color: str) -> str:
    return f'<rect width="10" height="10" rx="2" fill="{color}"/>'


def _svg(shapes: str, *, width: int) -> str:
    return f'<svg width="{width}" height="10" aria-hidden="true">{shapes}</svg>'
