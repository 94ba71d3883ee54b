"""How long a rank does nothing but wait for data of other ranks: communication that is not hidden behind computing.

Told from torch's profiler, which notes what runs when. On an accelerator that is kernels, whatever their stream; on CPU
the transfers of gloo and torch's operations. The definition is one: the time in which data is under way and the device
computes nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

_MOVES = ("nccl", "hccl", "rccl")
"""How kernels are named that move data between ranks."""

_DEVICE_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
_GLOO = "gloo:"
_OPERATION = "aten::"
_WAIT = "_c10d_functional::wait_tensor"
"""Within an operation that is given what has not come yet."""

Spans = list[tuple[int, int]]
"""Begins and ends, nanoseconds; ascending, without overlap."""


class Activity(Protocol):
    """Something that the profiler has noted."""

    def name(self) -> str: ...

    def activity_type(self) -> str: ...

    def start_ns(self) -> int: ...

    def duration_ns(self) -> int: ...


class Traffic:
    """Watches a part of a step. Where a profile of the whole step is being taken, there is nothing to tell."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def forget(self) -> None:
        """A step begins."""
        self._seconds = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch what is done inside. Waits for the device at the end."""
        if torch._C._autograd._profiler_enabled():
            yield
            return
        has_device = torch.accelerator.is_available()
        kinds = set(torch.profiler.supported_activities()) - {ProfilerActivity.CPU} if has_device else set()
        profiler: Any = profile(activities=kinds or {ProfilerActivity.CPU}, acc_events=False)
        profiler.start()
        try:
            yield
        finally:
            if has_device:
                torch.accelerator.synchronize()
            profiler.stop()
        self._seconds = exposed_seconds(profiler.profiler.kineto_results.events())
        # torch's object is part of a cycle: what it holds, megabytes of each step, would wait for Python's collector
        profiler.profiler = None

    def seconds(self) -> float | None:
        """Exposed, in the step that was watched last; None if none was."""
        return self._seconds


def exposed_seconds(activities: Sequence[Activity]) -> float:
    """The time in which data was under way between ranks and nothing was computed."""
    noted = [(one.name(), one.activity_type(), one.start_ns(), one.duration_ns()) for one in activities]
    on_device = [(name, begin, size) for name, kind, begin, size in noted if kind in _DEVICE_WORK]
    if on_device:
        moving = joined((begin, begin + size) for name, begin, size in on_device if name.startswith(_MOVES))
        computing = joined((begin, begin + size) for name, begin, size in on_device if not name.startswith(_MOVES))
    else:
        moving = joined((begin, begin + size) for name, _, begin, size in noted if name.startswith(_GLOO))
        waiting = joined((begin, begin + size) for name, _, begin, size in noted if name == _WAIT)
        operations = joined((begin, begin + size) for name, _, begin, size in noted if name.startswith(_OPERATION))
        computing = without(operations, waiting)
    return sum(end - begin for begin, end in without(moving, computing)) / 1e9


def joined(spans: Iterable[tuple[int, int]]) -> Spans:
    """The time that any of `spans` takes."""
    found: Spans = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def without(spans: Spans, others: Spans) -> Spans:
    """What is left of `spans` when `others` are taken out."""
    found: Spans = []
    place = 0
    for begin, end in spans:
        while place < len(others) and others[place][1] <= begin:
            place += 1
        at, next_place = begin, place
        while next_place < len(others) and others[next_place][0] < end:
            other_begin, other_end = others[next_place]
            if other_begin > at:
                found.append((at, other_begin))
            at = max(at, other_end)
            next_place += 1
        if at < end:
            found.append((at, end))
    return found
