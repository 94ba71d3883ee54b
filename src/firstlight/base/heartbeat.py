"""Signs of life: each rank keeps a small file that says where it is; its launcher reads them all.

Times are seconds of the machine's monotonic clock, which is one for all its processes.
"""

import math
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BEAT_SECONDS = 0.25

_FILE = "beat-{}"
_LAYOUT = struct.Struct("<qqqqqddd24s")
_SIZE = 128


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a rank said last."""

    rank: int
    pid: int
    first_step: int
    """Steps done when it began."""
    step: int
    """Steps done."""
    num_phases: int
    """Phases begun: all ranks go through the same ones, so the one with the fewest is behind."""
    phase: str
    began: float
    """When the phase did."""
    longest_seconds: float
    """That a phase of this name has lasted; 0 when none has ended, or it is not steady."""
    beaten: float
    """When a thread of the process last ran."""


class Heart:
    """This rank's signs of life, in a file of `folder`; without a folder nobody listens, and nothing is written."""

    def __init__(self, folder: Path | None, *, rank: int) -> None:
        self._rank = rank
        self._path = folder / _FILE.format(rank) if folder is not None and folder.is_dir() else None
        self._memory: mmap.mmap | None = None
        self._first_step = self._step = self._num_phases = 0
        self._phase, self._began = "start", time.monotonic()
        self._longest: dict[str, float] = {}
        self._ended = threading.Event()
        self._writing = threading.Lock()

    @contextmanager
    def beating(self, step: int) -> Iterator[None]:
        """Beat for the length of the block, in a run that goes on after `step`."""
        self._first_step = self._step = step
        if self._path is None:
            yield
            return
        with self._path.open("w+b") as file:
            file.truncate(_SIZE)
            self._memory = mmap.mmap(file.fileno(), _SIZE)
        thread = threading.Thread(target=self._beat, name="heart", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            self._write(is_last=True)

    @contextmanager
    def phase(self, name: str, *, is_steady: bool = True) -> Iterator[None]:
        """The rank is in phase `name` for the length of the block. How long a phase that is not steady has lasted says
        nothing of how long it may last."""
        before = self._phase
        self._enter(name)
        began = self._began
        try:
            yield
        finally:
            if is_steady:
                self._longest[name] = max(self._longest.get(name, 0.0), time.monotonic() - began)
            self._enter(before)

    def stepped(self, step: int) -> None:
        """`step` is done."""
        self._step = step
        self._write()

    def _enter(self, name: str) -> None:
        self._phase, self._began = name, time.monotonic()
        self._num_phases += 1
        self._write()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._write()

    def _write(self, *, is_last: bool = False) -> None:
        if self._memory is None:
            return
        with self._writing:
            longest = self._longest.get(self._phase, 0.0)
            counts = (self._rank, os.getpid(), self._first_step, self._step, self._num_phases)
            # A rank that has left its steps is never late: what it tears down takes as long as it takes.
            seconds = (math.inf, longest, math.inf) if is_last else (self._began, longest, time.monotonic())
            self._memory[: _LAYOUT.size] = _LAYOUT.pack(*counts, *seconds, self._phase.encode()[:24])


def read_beats(folder: Path) -> list[Beat]:
    """The last signs of all ranks, by rank."""
    beats = [beat for path in folder.glob(_FILE.format("*")) if (beat := _read(path)) is not None]
    return sorted(beats, key=lambda beat: beat.rank)


def _read(path: Path) -> Beat | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if len(content) < _LAYOUT.size:
        return None
    rank, pid, first_step, step, num_phases, began, longest, beaten, phase = _LAYOUT.unpack(content[: _LAYOUT.size])
    if not pid:
        return None
    name = phase.rstrip(b"\0").decode()
    return Beat(
        rank=rank,
        pid=pid,
        first_step=first_step,
        step=step,
        num_phases=num_phases,
        phase=name,
        began=began,
        longest_seconds=longest,
        beaten=beaten,
    )
