"""A disk that fails: the operations of a save, counted, and one of them interrupted half-way."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from firstlight.checkpoint import files, writer


class Killed(BaseException):
    """Stands for the end of the process; nothing may catch it."""


@dataclass
class Disk:
    """Lets operations pass and writes their names down; number `interrupted` is done by half and raises `error`."""

    error: BaseException
    interrupted: int | None = None
    done: list[str] = field(default_factory=list)

    def is_interrupted(self, name: str) -> bool:
        self.done.append(name)
        return len(self.done) - 1 == self.interrupted

    def around(self, name: str, act: Callable[..., Any], half: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """`act`, interrupted in its turn: after `half` of it, or before it where there are no halves."""

        def acting(*arguments: Any, **keywords: Any) -> Any:
            if self.is_interrupted(f"{name} {_file_name(arguments[0])}"):
                if half:
                    half(*arguments)
                raise self.error
            return act(*arguments, **keywords)

        return acting


def failing_disk(patch: pytest.MonkeyPatch, error: BaseException, interrupted: int | None = None) -> Disk:
    """A disk under the checkpoint room until `patch` is undone."""
    disk = Disk(error=error, interrupted=interrupted)
    write = disk.around("write", files.write_durably, _write_half)
    flush = disk.around("flush", files.flush_folder)
    for module in (files, writer):
        patch.setattr(module, "write_durably", write)
        patch.setattr(module, "flush_folder", flush)
    patch.setattr(os, "fsync", disk.around("fsync", os.fsync))
    patch.setattr(os, "replace", disk.around("replace", os.replace))
    patch.setattr(shutil, "rmtree", disk.around("remove", shutil.rmtree, _remove_half))
    for name in ("rename", "mkdir", "unlink"):
        patch.setattr(Path, name, disk.around(name, getattr(Path, name)))
    return disk


def _file_name(file: Path | int) -> str:
    return Path(os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else file).name


def _write_half(path: Path, content: bytes) -> None:
    path.write_bytes(content[: len(content) // 2])


def _remove_half(folder: Path) -> None:
    # As an interrupted rmtree may leave it: some files gone, the others as they were.
    os.unlink(sorted(path for path in folder.iterdir() if path.is_file())[0])
