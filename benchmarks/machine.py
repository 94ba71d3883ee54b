"""The machine that figures are of: what it is, and how busy others keep it while something is measured."""

import os
import platform
import threading
import time
from bisect import bisect_left
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS = 0.2
_IDLE_FIELDS = (3, 4)
"""Of /proc/stat: idle, and waiting for a disk."""


def describe() -> str:
    """Processor, cores and memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{cores()} cores of {name}, {gigabytes:.0f} GB, {platform.system()} {platform.release().partition('-')[0]}"


def cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0))


def busy_seconds() -> float:
    """Of all cores since the machine started; what a hypervisor took away counts."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
    return sum(ticks for number, ticks in enumerate(fields) if number not in _IDLE_FIELDS) / _TICKS


def tree_seconds(root: int) -> float:
    """Of a core, that process `root` and those that it has started have taken, as far as they are still known."""
    total, waiting = 0.0, [root]
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        try:
            # The name, in brackets, may hold anything; what follows it are numbers.
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            total += sum(int(ticks) for ticks in fields[11:15]) / _TICKS
            for task in (process / "task").iterdir():
                waiting += [int(word) for word in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


class ForeignLoad:
    """A context manager that watches what the rest of the machine does beside one process and its children."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._times: list[float] = []
        self._foreign: list[float] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="foreign load")

    def __enter__(self) -> "ForeignLoad":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def share(self, begin: float, end: float) -> float:
        """Of the machine, that others took between two Unix times; from 0 to 1."""
        if end <= begin or not self._times:
            return 0.0
        return min(max((self._at(end) - self._at(begin)) / ((end - begin) * cores()), 0.0), 1.0)

    def _at(self, moment: float) -> float:
        right = min(max(bisect_left(self._times, moment), 1), len(self._times) - 1)
        if right < 1:
            return self._foreign[0]
        (left_time, right_time), (left, value) = (
            self._times[right - 1 : right + 1],
            self._foreign[right - 1 : right + 1],
        )
        share = min(max((moment - left_time) / (right_time - left_time), 0.0), 1.0)
        return left + share * (value - left)

    def _watch(self) -> None:
        while True:
            own = tree_seconds(self._pid)
            # A process that has ended is no longer known: what it took must not seem to be others'.
            if own == 0.0 and self._times:
                return
            self._times.append(time.time())
            self._foreign.append(busy_seconds() - own)
            if self._ends.wait(_SAMPLE_SECONDS):
                return
