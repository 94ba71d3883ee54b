"""events.jsonl: what happened in a run beside its steps, one JSON object a line, in the order in which it happened.

Line: {"version": 1, "time": unix seconds, "step": after which step, "kind": one of KINDS, "text": for people,
"facts": {...}}. Lines are only ever added: a run that goes on from an earlier step keeps what happened before.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger

EVENTS_FILE = "events.jsonl"
FAULTS_FILE = "faults.jsonl"
"""Of the supervisor: what ended ranks before they could say so."""

VERSION = 1

EventKind = Literal["start", "checkpoint", "evaluation", "skip", "rewind", "fault", "alert", "profile", "stop"]
KINDS: tuple[EventKind, ...] = get_args(EventKind)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened after `step` steps. `facts` are plain JSON values."""

    kind: EventKind
    step: int
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    time: float = 0.0
    """Unix seconds."""


class EventLog:
    """Adds events to a file, from any thread, and tells those who listen. A file that cannot be written is named once.

    Without a file, nothing is kept: only one rank has one.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Event], None]] = []
        self._has_failed = False

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event to come, in the thread that adds it."""
        self._listeners.append(listener)

    def add(self, kind: EventKind, step: int, text: str, facts: Mapping[str, Any] | None = None) -> Event:
        """Write an event down; what it was, with its time."""
        event = Event(kind=kind, step=step, text=text, facts=_plain(facts or {}), time=self._clock())
        if self._path is not None:
            self._write(self._path, event)
            for listener in list(self._listeners):
                listener(event)
        return event

    def _write(self, path: Path, event: Event) -> None:
        line = {
            "version": VERSION,
            "time": event.time,
            "step": event.step,
            "kind": event.kind,
            "text": event.text,
            "facts": event.facts,
        }
        try:
            with self._lock, path.open("a+b") as file:
                # a killed process may have left half a line
                if file.tell() and not _ends_a_line(file):
                    file.write(b"\n")
                file.write((json.dumps(line, allow_nan=False) + "\n").encode())
        except OSError as error:
            if not self._has_failed:
                get_logger().warning("%s: events are not written, the run goes on: %s", path, error)
            self._has_failed = True


def read_events(path: Path) -> list[Event]:
    """The events of a file, in order; none where there is no file. Lines that were torn are left out.

    Raises InputError when the file cannot be read.
    """
    found = [_parsed(line) for line in _lines(path)]
    return [event for event in found if event is not None]


def read_faults(path: Path) -> list[Event]:
    """The failures in the supervisor's file, in order, as events of the step before the one that was under way.

    Raises InputError when the file cannot be read.
    """
    found = [_fault(line) for line in _lines(path)]
    return [event for event in found if event is not None]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    return [line for line in text.split("\n") if line]


def _fault(line: str) -> Event | None:
    try:
        values = json.loads(line)
        if values["event"] != "fault":
            return None
        return Event(
            kind="fault",
            step=int(values["step"]) - 1,
            text=f"{values['cause']}; then: {values['action']}",
            facts={name: values.get(name, "") for name in ("kind", "rank", "action", "traces")},
            time=float(values["time"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")


def _parsed(line: str) -> Event | None:
    try:
        values = json.loads(line)
        return Event(
            kind=values["kind"],
            step=int(values["step"]),
            text=str(values["text"]),
            facts=dict(values["facts"]),
            time=float(values["time"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that are not finite are null, as in metrics.jsonl."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in facts.items()
    }
