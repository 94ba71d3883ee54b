"""Draws the numbers that change over a run, before the run, as a single HTML page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from firstlight.config.timeline import Timeline
from firstlight.observe import page
from firstlight.observe.figure import COLORS, Chart, blank_figure

_MOST_POINTS = 4000


@dataclass(frozen=True, kw_only=True)
class Course:
    """A number by the number of an update, from 0; `description` names its schedule."""

    name: str
    value_at: Callable[[int], float]
    description: str


def write_schedule(title: str, courses: Sequence[Course], timeline: Timeline, output: Path) -> Path:
    """Write a chart of each course to the file `output` and return its path. The page needs no network."""
    updates = drawn_updates(timeline.steps)
    axis = {"step": [update + 1 for update in updates]}
    axis["tokens"] = [timeline.tokens_before(step) for step in axis["step"]]
    subtitle = f"Firstlight schedules, {timeline.steps:,} steps, {timeline.tokens:,} tokens"
    body = [page.heading(title, subtitle), page.switches()]
    body.append(page.chart_grid([_chart(course, updates, index) for index, course in enumerate(courses)]))
    text = page.page(title=f"Firstlight: {title}", plotly_script=get_plotlyjs(), axes={"run": axis}, body=body)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    return output


def drawn_updates(steps: int, most: int = _MOST_POINTS) -> list[int]:
    """The updates that are drawn: all of them, or at most so many, evenly, the first and the last among them."""
    if steps <= most:
        return list(range(steps))
    return [round(index * (steps - 1) / (most - 1)) for index in range(most)]


def _chart(course: Course, updates: Sequence[int], index: int) -> Chart:
    values = [course.value_at(update) for update in updates]
    figure = blank_figure(height=360)
    line = go.Scatter(
        x=[update + 1 for update in updates],
        y=values,
        meta="run",
        name=course.name,
        mode="lines" if len(values) > 1 else "markers",
        line={"color": COLORS[index % len(COLORS)], "width": 1.8},
    )
    figure.add_trace(line)
    figure.update_yaxes(tickformat=".2~e", rangemode="tozero")
    note = f"{course.description}: from {values[0]:.3g} over at most {max(values):.3g} to {values[-1]:.3g}"
    return Chart(title=course.name, note=note, figure=figure, is_wide=True)
