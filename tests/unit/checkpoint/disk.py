"""Disks that fail, handed to a checkpointer: interrupted at one operation, refusing, or slow."""

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.checkpoint.disk import LocalDisk


class Killed(BaseException):
    """Stands for the end of the process; nothing may catch it."""


@dataclass
class FailingDisk(LocalDisk):
    """Lets operations pass and writes their names down; number `interrupted` is done by half and raises `error`."""

    error: BaseException
    interrupted: int | None = None
    done: list[str] = field(default_factory=list)

    def make_folder(self, folder: Path) -> None:
        self._pass("mkdir", folder)
        super().make_folder(folder)

    def write(self, descriptor: int, content: memoryview) -> int:
        try:
            self._pass("write", _path_of(descriptor))
        except BaseException:
            os.write(descriptor, content[: len(content) // 2])
            raise
        return super().write(descriptor, content)

    def fsync(self, descriptor: int) -> None:
        self._pass("fsync", _path_of(descriptor))
        super().fsync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        self._pass("rename", old)
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        try:
            self._pass("remove", path)
        except BaseException:
            # As an interrupted rmtree may leave it: some files gone, the others as they were.
            for file in sorted(path.iterdir())[:1] if path.is_dir() else ():
                file.unlink()
            raise
        super().remove(path)

    def _pass(self, name: str, path: Path) -> None:
        self.done.append(f"{name} {path.name}")
        if len(self.done) - 1 == self.interrupted:
            raise self.error


@dataclass
class RefusingDisk(LocalDisk):
    """Refuses with `error`, while there is one, what goes to a path that `at` is in; `free` bytes are free."""

    error: OSError | None
    at: str = ""
    free: int = 12_345

    def make_folder(self, folder: Path) -> None:
        self._ask(folder)
        super().make_folder(folder)

    def write(self, descriptor: int, content: memoryview) -> int:
        self._ask(_path_of(descriptor))
        return super().write(descriptor, content)

    def fsync(self, descriptor: int) -> None:
        self._ask(_path_of(descriptor))
        super().fsync(descriptor)

    def free_bytes(self, folder: Path) -> int:
        return self.free if folder.exists() else super().free_bytes(folder)

    def _ask(self, path: Path) -> None:
        if self.error is not None and self.at in str(path):
            raise self.error


class SlowDisk(LocalDisk):
    """Takes so many bytes a second; or, without a rate, nothing until it is let go, and then it may raise `error`."""

    def __init__(self, error: BaseException | None = None, *, bytes_per_second: float | None = None) -> None:
        self.go = threading.Event()
        self.error = error
        self._bytes_per_second = bytes_per_second

    def write(self, descriptor: int, content: memoryview) -> int:
        if self._bytes_per_second is not None:
            content = content[:64]
            time.sleep(len(content) / self._bytes_per_second)
        else:
            assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        return super().write(descriptor, content)


def _path_of(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
