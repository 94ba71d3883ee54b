"""Rules that are held against every record, and what is done when one begins to hold: log, command, webhook."""

import json
import queue
import statistics
import subprocess
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from firstlight.base.log import get_logger
from firstlight.config.alert_rule import AlertRule, parse_alert_rule
from firstlight.config.monitor import AlertConfig
from firstlight.observe.events import EventLog
from firstlight.observe.record import EVALUATE_PREFIX, RankTable, Record

MEDIAN_OVER = 50
"""Records before the present one that a median is of."""

_FEWEST = 5
_COMMAND_SECONDS = 60.0
_WEBHOOK_SECONDS = 10.0
_CLOSING_SECONDS = 5.0
_ENOUGH_TO_KNOW_NAMES = 2
"""Records, after which a figure that is not there will not come, unless it is of an evaluation."""


@dataclass
class _Watched:
    """A rule and how it stood at the last records."""

    config: AlertConfig
    rule: AlertRule
    records: int = 0
    """Consecutive ones for which it held."""
    is_named: bool = False
    """Whether it was said that it is never judged."""


@dataclass(frozen=True, kw_only=True)
class _Act:
    """What is to be done beside the training."""

    config: AlertConfig
    message: Mapping[str, Any]


class Alerts:
    """A sink that raises alarms. An alert is raised when its rule begins to hold, and again after it has not held.

    Commands and webhooks run beside the training, one after the other; one that fails is a line in the log.
    """

    def __init__(self, configs: Sequence[AlertConfig], events: EventLog, *, run: str) -> None:
        self._watched = [_Watched(config=config, rule=parse_alert_rule(config.when)) for config in configs]
        self._events = events
        self._run = run
        self._past: dict[str, deque[float]] = {}
        self._seen: set[str] = set()
        self._latest: Record = {}
        self._records = 0
        self._acts = _Acts()

    def open(self, _step: int, /) -> None:
        """Begin anew: medians are of this process's records."""
        self._past.clear()

    def write_step(self, record: Record, /) -> None:
        """Hold every rule against a step's record."""
        self._records += 1
        self._latest = record
        self._judge([one for one in self._watched if not _held_out(one.rule)], record)
        if self._records == _ENOUGH_TO_KNOW_NAMES:
            self._say_unjudged(is_over=False)

    def write_evaluation(self, record: Record, /) -> None:
        """Hold the rules about held-out sets against an evaluation's record, and the last step's beside it."""
        self._judge([one for one in self._watched if _held_out(one.rule)], {**self._latest, **record})

    def write_ranks(self, _step: int, _table: RankTable, /) -> None:
        """Rules are about the whole run."""

    def close(self) -> None:
        """Give commands and webhooks that are under way a few seconds."""
        self._acts.close()
        self._say_unjudged(is_over=True)

    def _judge(self, rules: Sequence[_Watched], record: Record) -> None:
        self._seen.update(record)
        for watched in rules:
            holds = watched.rule.holds(record, self._median)
            if holds is None:
                continue
            watched.records = watched.records + 1 if holds else 0
            if watched.records == watched.config.for_records:
                self._raise(watched, record)
        needed = {name for watched in rules for name in watched.rule.names()}
        for name in needed & record.keys():
            self._past.setdefault(name, deque(maxlen=MEDIAN_OVER)).append(record[name])

    def _median(self, name: str) -> float | None:
        past = self._past.get(name, ())
        return statistics.median(past) if len(past) >= _FEWEST else None

    def _raise(self, watched: _Watched, record: Record) -> None:
        step = int(record["step"])
        figures = {name: record[name] for name in watched.rule.names() if name in record}
        medians = {f"median({name})": self._median(name) for name in figures if "median" in watched.config.when}
        shown = {name: value for name, value in (figures | medians).items() if value is not None}
        text = f"{watched.config.when}: " + ", ".join(f"{name} = {value:.6g}" for name, value in shown.items())
        get_logger().warning("alert after step %d: %s", step, text)
        event = self._events.add("alert", step, text, {"when": watched.config.when, **shown})
        message = {"run": self._run, "step": step, "time": event.time, "text": text, **event.facts}
        if watched.config.command is not None or watched.config.webhook is not None:
            self._acts.do(_Act(config=watched.config, message=message))

    def _say_unjudged(self, *, is_over: bool) -> None:
        """A rule about a figure that is not there would wait for ever, unheard."""
        for watched in self._watched:
            if watched.is_named or (_held_out(watched.rule) and not is_over):
                continue
            missing = [name for name in watched.rule.names() if name not in self._seen]
            if missing and self._records:
                watched.is_named = True
                get_logger().warning(
                    "monitor.alerts: %r is never judged, for no record has %s; metrics.jsonl has the names",
                    watched.config.when,
                    ", ".join(missing),
                )


def _held_out(rule: AlertRule) -> bool:
    """Whether it is about an evaluation."""
    return any(name.startswith(EVALUATE_PREFIX) for name in rule.names())


@dataclass
class _Acts:
    """One thread that does what alerts ask for."""

    waiting: "queue.Queue[_Act | None]" = field(default_factory=lambda: queue.Queue(maxsize=100))
    thread: threading.Thread | None = None

    def do(self, act: _Act) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="alerts", daemon=True)
            self.thread.start()
        try:
            self.waiting.put_nowait(act)
        except queue.Full:
            get_logger().warning("alert: %d commands and webhooks are waiting, one is left out", self.waiting.qsize())

    def close(self) -> None:
        if self.thread is not None:
            self.waiting.put(None)
            self.thread.join(_CLOSING_SECONDS)
            if self.thread.is_alive():
                get_logger().warning("alert: a command or webhook has not ended within %.0f s", _CLOSING_SECONDS)
            self.thread = None

    def _work(self) -> None:
        while (act := self.waiting.get()) is not None:
            if act.config.command is not None:
                _run_command(act.config.command, act.message)
            if act.config.webhook is not None:
                _post(act.config.webhook, act.message)


def _run_command(command: Sequence[str], message: Mapping[str, Any]) -> None:
    try:
        ended = subprocess.run(
            list(command),
            input=json.dumps(message).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        get_logger().warning("alert: the command failed: %s", error)
        return
    if ended.returncode:
        last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        get_logger().warning("alert: %s ended with exit code %d: %s", command[0], ended.returncode, last)


def _post(address: str, message: Mapping[str, Any]) -> None:
    body = json.dumps(message).encode()
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_WEBHOOK_SECONDS):
            return
    except (urllib.error.URLError, OSError, ValueError) as error:
        # without the address, which may hold a secret
        get_logger().warning("alert: the webhook failed: %s", error)
