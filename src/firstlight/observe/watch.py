"""Follows a run in the terminal: the panel that the run itself would show, from the files of its folder."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal
from rich.live import Live

from firstlight.config.source import read_source
from firstlight.observe.events import EVENTS_FILE, read_events
from firstlight.observe.history import CONFIGURATION_FILE
from firstlight.observe.jsonl import METRICS_FILE
from firstlight.observe.panel import RunPanel

_ASKED_EVERY_SECONDS = 1.0


class NewLines:
    """The whole lines of a file that have come since the last look; all of them again when the file was rewritten."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._inode = 0
        self.is_rewritten = False
        """Whether the last look began from the start again."""

    def take(self) -> list[dict[str, Any]]:
        """The objects of the new lines."""
        self.is_rewritten = False
        try:
            with self._path.open("rb") as file:
                stat = self._path.stat()
                if self._inode not in (0, stat.st_ino) or stat.st_size < self._at:
                    self._at, self.is_rewritten = 0, True
                self._inode = stat.st_ino
                file.seek(self._at)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        self._at += len(whole) + 1 if whole else 0
        return [json.loads(line) for line in whole.split(b"\n") if line]


class RunWatch:
    """A panel that is kept up with a run's folder."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._metrics = NewLines(run / METRICS_FILE)
        self._num_events = 0
        self.panel = self._new_panel()

    def look(self) -> RunPanel:
        """The panel, with what has come since the last look."""
        lines = self._metrics.take()
        if self._metrics.is_rewritten:
            self.panel, self._num_events = self._new_panel(), 0
        for line in lines:
            if line["kind"] == "step" and line.get("loss") is not None:
                self.panel.take_step(_numbers(line))
            elif line["kind"] == "evaluation":
                self.panel.take_evaluation(_numbers(line))
        events = read_events(self._run / EVENTS_FILE)
        for event in events[self._num_events :]:
            self.panel.take_event(event)
        self._num_events = len(events)
        return self.panel

    def _new_panel(self) -> RunPanel:
        path = self._run / CONFIGURATION_FILE
        steps = read_source(path).values.get("training", {}).get("steps", 0) if path.exists() else 0
        return RunPanel(total_steps=int(steps), title=self._run.name)


def watch_in_terminal(
    run: Path, *, is_over: Callable[[], bool] = lambda: False, terminal: Terminal | None = None
) -> None:
    """Show the panel of `run` until `is_over`, or an interrupt."""
    watch = RunWatch(run)
    with Live(watch.look(), console=terminal or Terminal(), refresh_per_second=2) as live:
        while not is_over():
            time.sleep(_ASKED_EVERY_SECONDS)
            live.update(watch.look())


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if isinstance(value, int | float)}
