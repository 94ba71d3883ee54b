"""One writer for an output folder. Who is fenced off, because another has taken over, cannot publish any more.

A lock is a file `lock-N.json`; the highest number holds the folder. It appears whole or not at all, under a number that
nobody else can take, so of two that take over a dead one's lock only one can win.
"""

import json
import os
import re
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from firstlight.base.errors import FolderInUseError, InputError
from firstlight.base.log import get_logger

LOCK_FILE = re.compile(r"lock-(\d{8})\.json")
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
"""Twelve missed heartbeats: more than a file system is slow, less than a person waits."""

_STATE, _START_TIME = 0, 19
"""Places in /proc/PID/stat, counted from behind the command's name."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a folder. `place` is equal where process numbers mean the same processes."""

    host: str
    pid: int
    place: str
    process_start: str
    started: str
    token: str
    job: str = ""
    """The start of the run by its launchers, where those of several nodes count its rounds."""
    round: int = 0


class FolderLock:
    """The lock of `folder`, released at the end of a `with` block. `acquire` it first."""

    def __init__(
        self,
        folder: Path,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
        job: str = "",
        round: int = 0,
    ) -> None:
        self._folder = folder
        self._heartbeat_seconds = heartbeat_seconds
        self._stale_seconds = stale_seconds
        self._me = replace(_this_process(), job=job, round=round)
        self._file: Path | None = None
        self._ended = threading.Event()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.release()

    def acquire(self) -> None:
        """Hold the folder, taking over the lock of a process that is gone.

        Raises FolderInUseError with host, pid and start of a process that is not, InputError when the folder cannot
        be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._acquire()
        except OSError as error:
            raise InputError(f"training.output_folder = {self._folder} cannot be written: {error}") from None
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def is_held(self) -> bool:
        """Whether nobody has taken over. True for a process that never asked for the folder."""
        if self._file is None:
            return True
        found = _locks(self._folder)
        holder = _read(self._file)
        return bool(found) and found[-1] == self._file and holder is not None and holder.token == self._me.token

    def release(self) -> None:
        """Leave the folder to others."""
        self._ended.set()
        if self._file is not None and self.is_held():
            self._file.unlink(missing_ok=True)
        self._file = None

    def _acquire(self) -> None:
        aside = self._folder / f"lock-{self._me.token}.partial"
        aside.write_text(json.dumps(asdict(self._me), indent=1))
        try:
            # Ages are measured on the file system's clock: hosts need not agree on the time.
            now = aside.stat().st_mtime
            before = self._gone(_locks(self._folder), now)
            number = max((int(path.stem.removeprefix("lock-")) for path in before), default=0) + 1
            mine = self._folder / f"lock-{number:08d}.json"
            try:
                os.link(aside, mine)
            except FileExistsError:
                raise self._refusal(mine, now) from None
        finally:
            aside.unlink()
        try:
            # Another may have come and gone, and come again under a lower number, while this process looked.
            others = self._gone([path for path in _locks(self._folder) if path != mine], now)
        except FolderInUseError:
            mine.unlink()
            raise
        for path in others:
            get_logger().warning(f"{path} is of a process that is gone; taken over")
            path.unlink(missing_ok=True)
        self._file = mine

    def _gone(self, locks: list[Path], now: float) -> list[Path]:
        for path in locks:
            if not self._is_gone(path, now):
                raise self._refusal(path, now)
        return locks

    def _is_gone(self, path: Path, now: float) -> bool:
        holder = _read(path)
        if holder is not None and holder.job and holder.job == self._me.job:
            # The launchers of all nodes have ended that round; a machine that was cut off may not know it yet.
            return holder.round < self._me.round
        if holder is not None and holder.place and holder.place == self._me.place:
            return _process_start(holder.pid) != holder.process_start
        return _age(path, now) > self._stale_seconds

    def _refusal(self, path: Path, now: float) -> FolderInUseError:
        holder = _read(path)
        who = f"host {holder.host}, pid {holder.pid}, started {holder.started}" if holder else "an unreadable lock"
        return FolderInUseError(
            f"{self._folder} is in use by another run: {who}, last sign of life {max(_age(path, now), 0):.0f} s ago "
            f"({path.name}); let it end or stop it, or use another training.output_folder"
        )

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat_seconds):
            file = self._file
            try:
                if file is not None:
                    os.utime(file)
            except OSError:
                continue  # taken over, which the next save says; or a disk that may come back


def _locks(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if LOCK_FILE.fullmatch(path.name))


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except OSError:
        return float("inf")


def _this_process() -> Holder:
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        place=_place(),
        process_start=_process_start(os.getpid()),
        started=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        token=uuid.uuid4().hex,
    )


def _place() -> str:
    """This start of this machine, and this container: elsewhere the same number is another process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When process `pid` began, in ticks of this machine; empty when there is none, or only its exit code is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[_STATE] in ("Z", "X") else fields[_START_TIME]
