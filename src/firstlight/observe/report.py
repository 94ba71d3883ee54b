"""Writes what one or several runs have come to as a single HTML file, to look at and to send around."""

from collections.abc import Sequence
from pathlib import Path

from plotly.offline import get_plotlyjs

from firstlight.observe import page
from firstlight.observe.charts import axes, charts
from firstlight.observe.differences import differences
from firstlight.observe.figure import COLORS
from firstlight.observe.figures import cards
from firstlight.observe.history import History, read_histories


def write_report(runs: Sequence[Path], output: Path) -> Path:
    """Write the report of run folders to the file `output` and return its path. The page needs no network.

    Raises InputError when a run has no metrics yet, or a file of its folder cannot be read.
    """
    text = report_page(read_histories(runs))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    return output


def report_page(histories: Sequence[History], live: page.LivePart | None = None) -> str:
    """The report as a document; a `live` part lets it follow its run."""
    title = histories[0].name if len(histories) == 1 else f"{len(histories)} runs"
    body = [page.heading(title, _subtitle(histories)), f'<div id="essentials">{essentials(histories)}</div>']
    body += [page.switches(), page.chart_grid(charts(histories))]
    body += [f'<section class="rest" id="rest">{rest(histories)}</section>', *_versions(histories)]
    return page.page(
        title=f"Firstlight: {title}", plotly_script=get_plotlyjs(), axes=axes(histories), body=body, live=live
    )


def rest(histories: Sequence[History]) -> str:
    """What stands below the charts, as HTML: samples, differences, configurations."""
    blocks = []
    if len(histories) > 1:
        blocks.append(page.difference_table([run.name for run in histories], differences(histories)))
    for run in histories:
        suffix = "" if len(histories) == 1 else f", {run.name}"
        faults = [event for event in run.events if event.kind == "fault"]
        if faults:
            blocks.append(page.fault_table(f"Faults{suffix}", faults))
        if run.samples:
            blocks.append(page.samples(f"Samples{suffix}", run.samples))
        if run.sample:
            blocks.append(page.prose(f"Sample{suffix}", run.sample))
        if run.configuration_text:
            blocks.append(page.folded(f"Configuration{suffix}", run.configuration_text))
    return "".join(blocks)


def _subtitle(runs: Sequence[History]) -> str:
    if len(runs) > 1:
        return "Firstlight report: " + ", ".join(run.name for run in runs)
    family = runs[0].configuration.get("model", {}).get("family")
    return f"Firstlight report, {family}" if family else "Firstlight report"


def essentials(runs: Sequence[History]) -> str:
    """The numbers that runs come down to, as HTML."""
    if len(runs) == 1:
        return page.card_grid(cards(runs[0]))
    return page.card_table(
        [(run.name, COLORS[number % len(COLORS)], cards(run)) for number, run in enumerate(runs)],
    )


def _versions(runs: Sequence[History]) -> list[str]:
    """What the runs were made with: one line, or one for each run where they differ."""
    lines: dict[str, str] = {}
    for run in runs:
        versions = run.facts.get("versions")
        if isinstance(versions, dict):
            text = ", ".join(f"{name} {version}" for name, version in versions.items())
            lines.setdefault(text + _code(run.facts.get("git")), run.name)
    return [page.footer(text if len(lines) == 1 else f"{name}: {text}") for text, name in lines.items()]


def _code(git: object) -> str:
    """Of which commit the code was, where that is known."""
    if not isinstance(git, dict):
        return ""
    return f", code of commit {str(git.get('commit'))[:12]}" + (", changed since" if git.get("is_dirty") else "")
