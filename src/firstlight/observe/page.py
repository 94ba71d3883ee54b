"""The report's page around its charts: one HTML document that loads nothing from anywhere."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.observe.events import Event
from firstlight.observe.figure import Chart
from firstlight.observe.figures import Card
from firstlight.observe.legend import legend

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1c2026; --quiet: #6a727d;
  --edge: #e3e6ea; --accent: #3a6fd0; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12151a; --card: #1a1e25; --ink: #e6e9ed; --quiet: #98a1ad; --edge: #2b313a; --accent: #7aa5f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5; font-size: 15px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 26px; font-weight: 650; letter-spacing: -0.01em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; font-weight: 600; margin: 0; }
header p, .note { color: var(--quiet); margin: 2px 0 0; font-size: 13px; }
.panel { background: var(--card); border: 1px solid var(--edge); border-radius: 12px; padding: 16px; min-width: 0; }
.cards { display: grid; gap: 12px; margin: 24px 0; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
.cards .panel { padding: 12px 16px 14px; }
.label { color: var(--quiet); font-size: 13px; overflow-wrap: anywhere; }
.value { font-size: 23px; font-weight: 620; letter-spacing: -0.01em; font-variant-numeric: tabular-nums; }
.value small { font-size: 14px; font-weight: 500; color: var(--quiet); letter-spacing: 0; }
.charts { display: grid; gap: 16px; grid-template-columns: repeat(2, minmax(0, 1fr)); }
.wide { grid-column: 1 / -1; }
.chart { margin-top: 10px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; margin-top: 8px; }
.legend button { display: inline-flex; align-items: center; gap: 6px; padding: 1px 0; background: none; color: inherit;
  font-weight: 400; overflow-wrap: anywhere; text-align: left; }
.legend button[aria-pressed="false"] { opacity: 0.4; text-decoration: line-through; }
.legend svg { flex: none; }
.switches { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 12px; align-items: center; }
.switches span { display: inline-flex; border: 1px solid var(--edge); border-radius: 8px; overflow: hidden; }
button { font: inherit; font-size: 13px; border: 0; padding: 5px 14px; background: var(--card); color: var(--quiet);
  cursor: pointer; }
.switches button[aria-pressed="true"] { color: var(--accent); font-weight: 600;
  background: color-mix(in srgb, var(--accent) 12%, var(--card)); }
.scroll { overflow-x: auto; margin: 24px 0; padding: 4px 0; }
table { border-collapse: collapse; font-size: 14px; width: 100%; }
th, td { text-align: right; padding: 8px 14px; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { color: var(--quiet); font-weight: 500; font-size: 13px; white-space: normal; vertical-align: bottom;
  min-width: 84px; }
th:first-child, td:first-child { text-align: left; font-weight: 600; }
td.words, th:last-child:nth-child(2) { text-align: left; white-space: normal; overflow-wrap: anywhere; }
tbody tr { border-top: 1px solid var(--edge); }
.overflow { overflow-x: auto; margin-top: 8px; }
.samples details { margin-top: 10px; }
.samples summary { font-weight: 500; color: var(--quiet); font-size: 13px; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px; }
.rest { display: grid; gap: 16px; margin-top: 16px; }
summary { cursor: pointer; font-weight: 600; }
pre { margin: 10px 0 0; font: 13px/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-x: auto; }
pre.prose { white-space: pre-wrap; overflow-wrap: anywhere; }
footer { color: var(--quiet); font-size: 13px; margin-top: 24px; overflow-wrap: anywhere; }
@media (max-width: 820px) { .charts { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 480px) {
  main { padding: 20px 12px 32px; } .panel { padding: 12px; }
  .cards { grid-template-columns: 1fr 1fr; gap: 8px; } .value { font-size: 19px; }
  .switches .label { display: none; } h1 { font-size: 21px; } }
"""

# touch: plotly's drag to zoom would swallow the finger that scrolls the page
SCRIPT = """
const axes = JSON.parse(document.getElementById("axes").textContent);
const chosen = { unit: "step", scale: "linear" };
const plots = [...document.querySelectorAll(".js-plotly-plot")];
function draw() {
  for (const plot of plots) {
    if (!plot.data.every(trace => trace.meta in axes)) continue;
    const x = plot.data.map(trace => axes[trace.meta][chosen.unit]);
    Plotly.update(plot, { x }, { "xaxis.type": chosen.scale, "xaxis.autorange": true });
  }
}
for (const button of document.querySelectorAll("button[data-key]")) {
  button.addEventListener("click", () => {
    chosen[button.dataset.key] = button.dataset.value;
    for (const other of button.parentElement.children) other.setAttribute("aria-pressed", other === button);
    draw();
  });
}
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", shown);
    const plot = button.closest(".panel").querySelector(".js-plotly-plot");
    Plotly.restyle(plot, { visible: shown }, [Number(button.dataset.trace)]);
  });
}
if (matchMedia("(pointer: coarse)").matches) for (const plot of plots) Plotly.relayout(plot, { dragmode: false });
"""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


@dataclass(frozen=True, kw_only=True)
class LivePart:
    """What a page that follows its run has beside the others: where it may ask, and how it does."""

    policy: str
    script: str


def page(
    *, title: str, plotly_script: str, axes: Mapping[str, Any], body: Sequence[str], live: LivePart | None = None
) -> str:
    """The document. `body` is HTML; the browser is told to load nothing, whatever it says, but what `live` asks for."""
    # "<" would let a name in the data end the script element
    asked, following = (live.policy, live.script) if live is not None else ("", "")
    positions = json.dumps(axes, allow_nan=False).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}{asked}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>",
            f"<script>{plotly_script}</script>\n</head>\n<body>\n<main>",
            *body,
            f'</main>\n<script type="application/json" id="axes">{positions}</script>',
            f"<script>{SCRIPT}{following}</script>\n</body>\n</html>\n",
        ]
    )


def heading(title: str, subtitle: str) -> str:
    """The page's title, and a line below it."""
    return f"<header><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p></header>"


def card_grid(cards: Sequence[Card]) -> str:
    """The numbers of one run."""
    return f'<section class="cards">{"".join(_card(card) for card in cards)}</section>'


def card_table(rows: Sequence[tuple[str, str, Sequence[Card]]]) -> str:
    """The numbers of several runs: name, colour and cards of each, one row a run."""
    labels = list(dict.fromkeys(card.label for _, _, cards in rows for card in cards))
    head = "".join(f"<th>{html.escape(label)}</th>" for label in labels)
    lines = []
    for name, color, cards in rows:
        values = {card.label: f"{card.value} {card.unit}".strip() for card in cards}
        cells = "".join(f"<td>{html.escape(values.get(label, ''))}</td>" for label in labels)
        swatch = f'<span class="swatch" style="background:{html.escape(color)}"></span>'
        lines.append(f"<tr><td>{swatch}{html.escape(name)}</td>{cells}</tr>")
    table = f"<table><thead><tr><th>Run</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<section class="panel scroll">{table}</section>'


def switches() -> str:
    """Buttons that choose the horizontal axis of all charts."""
    groups = (("unit", (("step", "steps"), ("tokens", "tokens"))), ("scale", (("linear", "linear"), ("log", "log"))))
    spans = []
    for key, choices in groups:
        buttons = [
            f'<button type="button" data-key="{key}" data-value="{value}" '
            f'aria-pressed="{"true" if index == 0 else "false"}">{label}</button>'
            for index, (value, label) in enumerate(choices)
        ]
        spans.append(f"<span>{''.join(buttons)}</span>")
    return f'<div class="switches"><div class="label">Horizontal axis</div>{"".join(spans)}</div>'


def chart_grid(charts: Sequence[Chart]) -> str:
    """The charts, two beside each other where there is room."""
    return f'<section class="charts">{"".join(_chart(chart) for chart in charts)}</section>'


def prose(title: str, text: str) -> str:
    """A text that the model wrote, as it stands."""
    return f'<section class="panel"><h2>{html.escape(title)}</h2><pre class="prose">{html.escape(text)}</pre></section>'


def folded(title: str, text: str) -> str:
    """A block that opens on a click."""
    shown = f"<summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre>"
    return f'<details class="panel">{shown}</details>'


def samples(title: str, texts: Mapping[int, str]) -> str:
    """Texts that the model wrote over time, the newest first and open."""
    newest = max(texts, default=0)
    blocks = [
        f"<details{' open' if step == newest else ''}><summary>after step {step:,}</summary>"
        f'<pre class="prose">{html.escape(texts[step])}</pre></details>'
        for step in sorted(texts, reverse=True)
    ]
    return f'<section class="panel samples"><h2>{html.escape(title)}</h2>{"".join(blocks)}</section>'


def difference_table(names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The keys in which configurations differ, a column for each run."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = [
        f"<tr><td>{html.escape(key)}</td>{''.join(f'<td>{html.escape(value)}</td>' for value in values)}</tr>"
        for key, values in rows
    ]
    table = f"<table><thead><tr><th>Key</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    shown = table if rows else '<p class="note">none: the runs differ in nothing but their folders</p>'
    return f'<section class="panel"><h2>Differences in configuration</h2><div class="overflow">{shown}</div></section>'


def fault_table(title: str, faults: Sequence[Event]) -> str:
    """What went wrong after which step, and where in the run's folder more about it is."""
    lines = []
    for fault in faults:
        traces = str(fault.facts.get("traces") or "")
        where = f' <span class="note">stacks and collectives: {html.escape(traces)}</span>' if traces else ""
        lines.append(f'<tr><td>{fault.step:,}</td><td class="words">{html.escape(fault.text)}{where}</td></tr>')
    table = f"<table><thead><tr><th>After step</th><th>Fault</th></tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<section class="panel"><h2>{html.escape(title)}</h2><div class="overflow">{table}</div></section>'


def footer(text: str) -> str:
    """A quiet line at the end."""
    return f"<footer>{html.escape(text)}</footer>"


def _card(card: Card) -> str:
    label, value, note = (html.escape(text) for text in (card.label, card.value, card.note))
    unit = f" <small>{html.escape(card.unit)}</small>" if card.unit else ""
    shown_note = f'<div class="note">{note}</div>' if note else ""
    return (
        f'<div class="panel"><div class="label">{label}</div><div class="value">{value}{unit}</div>{shown_note}</div>'
    )


def _chart(chart: Chart) -> str:
    config = {"displaylogo": False, "displayModeBar": False, "responsive": True}
    drawing = chart.figure.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False, config=config)
    width = "panel wide" if chart.is_wide else "panel"
    title = html.escape(chart.title)
    words = f'<h2>{title}</h2><p class="note">{html.escape(chart.note)}</p>'
    buttons = legend(chart.figure) if chart.has_legend else ""
    return f'<div class="{width}" data-chart="{title}">{words}{buttons}<div class="chart">{drawing}</div></div>'
