"""What went wrong in a run and what it cost: lines in the run's folder as it happens, and a table at the end."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

EVENTS_FILE = "faults.jsonl"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A failure and what was done about it. Seconds count from when it was noticed."""

    time: float
    """Unix time, seconds."""
    round: int
    """Starts of the ranks before it."""
    kind: str
    rank: int | None
    """None: of no rank in particular."""
    step: int
    """The step that was under way."""
    cause: str
    action: str
    """"restart", "stop", or "rewind"."""
    traces: str = ""
    """Where in the run's folder the stacks and collectives of the ranks are, when they were asked for them."""
    steps_lost: int | None = None
    """Steps that were done before it and were done again; None while the ranks have not come so far."""
    seconds_lost: float | None = None
    """Until the run had come as far as before."""


class Ledger:
    """Appends to the `faults.jsonl` of a run's folder. A folder that is not there, or a full disk, loses lines only."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._path = folder / EVENTS_FILE
        self._clock = clock
        self._began = clock()
        self._began_at = time.time()
        self.faults: list[Fault] = []
        self._open: tuple[Fault, float] | None = None

    def failed(self, fault: Fault, noticed_at: float) -> None:
        """Write down a failure that was noticed at that time of the clock."""
        if self._open is not None:  # it came before the last one was made up for
            self.faults.append(self._open[0])
        self._open = (fault, noticed_at)
        self._append({"event": "fault", **asdict(fault)})
        if fault.action != "restart":
            self.faults.append(fault)
            self._open = None

    def adopt(self, faults: Sequence[Fault]) -> None:
        """Go on from what another supervisor has written down; how long ago that was, the clocks of both say."""
        self.faults = list(faults)
        if faults:  # the run began before this supervisor
            self._began = min(self._began, self._clock() - max(time.time() - faults[0].time, 0.0))
        if self.faults and self.faults[-1].action == "restart":
            fault = self.faults.pop()
            costs = self._recovery(fault)
            if costs is None:
                self._open = (fault, self._clock() - max(time.time() - fault.time, 0.0))
            else:
                self.faults.append(replace(fault, **costs))

    def _recovery(self, fault: Fault) -> dict[str, Any] | None:
        """What another supervisor has written down of it, once the run had come as far as before."""
        for line in reversed(self._lines()):
            is_of_it = all(line.get(name) == getattr(fault, name) for name in ("kind", "rank", "step"))
            if line.get("event") == "recovered" and is_of_it and line["time"] >= fault.time:
                return {name: line[name] for name in ("steps_lost", "seconds_lost")}
        return None

    def went_on(self, *, first_step: int, step: int) -> None:
        """The ranks began after `first_step` and have done `step`: once they are as far, the failure is made up for."""
        if self._open is None:
            return
        fault, noticed_at = self._open
        if fault.steps_lost is None:
            fault = replace(fault, steps_lost=max(fault.step - 1 - first_step, 0))
            self._open = (fault, noticed_at)
        if step >= fault.step:
            self._open = None
            fault = replace(fault, seconds_lost=self._clock() - noticed_at)
            self.faults.append(fault)
            self._append({"event": "recovered", "time": time.time(), **_costs(fault)})

    def summary(self) -> str:
        """A table of all faults, and the share of time that was not lost; empty when there were none."""
        faults = [*self.faults, *([] if self._open is None else [self._open[0]]), *self._rewinds()]
        faults.sort(key=lambda fault: fault.time)
        if not faults:
            return ""
        elapsed = self._clock() - self._began
        lost = sum(fault.seconds_lost or 0.0 for fault in faults)
        lines = ["fault         rank   step  steps lost  seconds lost  then"]
        lines += [
            f"{fault.kind:<12} {_count(fault.rank):>5} {fault.step:>6} {_count(fault.steps_lost):>11} "
            f"{_seconds(fault.seconds_lost):>13}  {fault.action}"
            for fault in faults
        ]
        lines.append(
            f"{len(faults)} fault(s) in {elapsed:,.0f} s, one every {elapsed / len(faults):,.0f} s; "
            f"effective training time {100 * (1 - lost / elapsed):.1f} %"
        )
        return "\n".join(lines)

    def _rewinds(self) -> list[Fault]:
        """What the first rank has written about going back, since this run was started."""
        rewinds: list[Fault] = []
        for line in self._lines():
            if line.get("event") == "rewind" and line["time"] >= self._began_at:
                facts = {"time": line["time"], "round": 0, "rank": None, "cause": line["cause"], "action": "rewind"}
                rewinds.append(Fault(kind="bad numbers", step=line["step"], **facts))
            elif line.get("event") == "rewound" and rewinds:
                costs = {name: line[name] for name in ("steps_lost", "seconds_lost")}
                rewinds[-1] = replace(rewinds[-1], **costs)
        return rewinds

    def _lines(self) -> list[dict[str, Any]]:
        """Of the file; those that were torn are left out."""
        if not self._path.exists():
            return []
        lines = []
        for text in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(json.JSONDecodeError):
                lines.append(json.loads(text))
        return lines

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError:
            return


def _costs(fault: Fault) -> dict[str, Any]:
    return {name: getattr(fault, name) for name in ("kind", "rank", "step", "steps_lost", "seconds_lost")}


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
