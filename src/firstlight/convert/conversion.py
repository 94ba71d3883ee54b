"""A conversion: an opened input into an output of another format, entry by entry.

What is written lies in OUTPUT.partial until all of it is on disk, and then gets its name in one rename. Started again
with the same arguments after a kill, it goes on there: what the journal counts is not written again.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from firstlight import __version__
from firstlight.base.errors import FirstlightError, FolderInUseError, InputError
from firstlight.base.log import get_logger
from firstlight.checkpoint.disk import LocalDisk
from firstlight.checkpoint.files import flush_folder
from firstlight.convert.journal import JOURNAL, FileProgress, Journal
from firstlight.convert.planned_file import PlannedFile, planned_files
from firstlight.convert.translation import Translation
from firstlight.convert.weight_format import OpenedWeights, Output, ReadChoices, WeightFormat, WrittenFiles

_LOCK = "conversion.lock"
_SECONDS = 10.0
"""Between two entries in the journal: what is done in this time may be done again after a kill."""

Advance = Callable[[int], None]
"""Told of the bytes that are written so far."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What is asked for. `dtype` None leaves the weights as they are."""

    origin: Path
    opened: OpenedWeights
    choices: ReadChoices
    target: WeightFormat
    output: Path
    dtype: torch.dtype | None = None
    shard_bytes: int | None = None
    journal_seconds: float = _SECONDS

    def request(self) -> Mapping[str, Any]:
        """What a journal is held to: arguments, model, and name, size and time of the input's files."""
        files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in self.opened.weights.source.files]
        return {
            "version": __version__,
            "files": files,
            "model": self.opened.model.model_dump(mode="json"),
            "at": self.choices.at,
            "strategy": str(self.choices.strategy),
            "mindformers": repr(self.choices.mindformers),
            "target": self.target.name,
            "dtype": str(self.dtype),
            "shard_bytes": self.shard_bytes,
        }


class ConversionPlan:
    """The files that a conversion writes, from names and shapes alone.

    Raises InputError when the input is not of its model, or the output is there already.
    """

    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion
        self._target = _writable(conversion)
        opened = conversion.opened
        table = self._target.table(opened.model, conversion.choices.mindformers)
        self._translation = Translation(opened.model, opened.weights, table, conversion.dtype)
        shard_bytes = self._target.shard_bytes and (conversion.shard_bytes or self._target.shard_bytes)
        self._files = planned_files(self._translation.entries, self._target.suffix, shard_bytes)
        self.num_tensors = sum(len(file.tensors) for file in self._files)
        self.num_bytes = sum(file.num_bytes for file in self._files)

    def run(self, advance: Advance) -> None:
        """Write the output. Raises FirstlightError when the disk refuses, FolderInUseError when it is being written."""
        output = self._conversion.output
        staging = output.with_name(output.name + ".partial")
        try:
            _claim(staging)
            with _locked(staging / _LOCK):
                journal = Journal(staging, self._conversion.request())
                self._prepare(staging, journal)
                done = 0
                for file in self._files:
                    self._write(staging / file.name, file, journal, advance, done)
                    done += file.num_bytes
                    advance(done)
                self._publish(staging)
        except OSError as error:
            raise FirstlightError(
                f"{output} is not written: {error}; {_free_bytes(output):,} bytes are free. "
                "Run the same command again to go on"
            ) from error

    def _prepare(self, staging: Path, journal: Journal) -> None:
        """Remove what is left of another conversion, and see that there is room."""
        if journal.was_there:
            get_logger().info(f"{staging}: an earlier start of this conversion, which is gone on with")
        else:
            journal.begin()
            for leftover in staging.iterdir():
                if leftover.name not in (_LOCK, JOURNAL):
                    leftover.unlink()
        left = self.num_bytes - sum(journal.progress(file.name).num_bytes for file in self._files)
        if left > _free_bytes(staging):
            raise InputError(
                f"{self._conversion.output} needs {left:,} bytes, but {_free_bytes(staging):,} are free there"
            )

    def _write(self, path: Path, file: PlannedFile, journal: Journal, advance: Advance, done: int) -> None:
        """Write a file, or what is left of it; `done` bytes are in the files before it."""
        progress = journal.progress(file.name)
        if progress.is_finished:
            return
        done += sum(entry.num_bytes for entry in file.entries[: progress.num_entries])
        with path.open("r+b" if progress.num_bytes else "wb") as stream:
            stream.truncate(progress.num_bytes)
            stream.seek(progress.num_bytes)
            writer = self._target.start(stream, file.tensors, progress.crc)
            recorded_at = time.monotonic()
            for number, entry in enumerate(file.entries[progress.num_entries :], start=progress.num_entries + 1):
                for name, tensor in self._translation.read(entry):
                    writer.add(name, tensor)
                done += entry.num_bytes
                advance(done)
                if time.monotonic() - recorded_at >= self._conversion.journal_seconds:
                    _flush(stream)
                    at = FileProgress(num_entries=number, num_bytes=stream.tell(), crc=writer.crc)
                    journal.record(file.name, at)
                    recorded_at = time.monotonic()
            writer.finish()
            _flush(stream)
            journal.record(file.name, FileProgress(num_bytes=stream.tell(), is_finished=True))

    def _publish(self, staging: Path) -> None:
        output, disk = self._conversion.output, LocalDisk()
        if self._target.shard_bytes is None:
            os.replace(staging / self._files[0].name, output)
            shutil.rmtree(staging)
            flush_folder(disk, output.parent)
            return
        if self._target.finish is not None:
            self._target.finish(
                WrittenFiles(
                    folder=staging,
                    origin=self._conversion.origin,
                    model=self._conversion.opened.model,
                    tensors={file.name: file.tensors for file in self._files},
                )
            )
        flush_folder(disk, staging)
        os.replace(staging, output)
        flush_folder(disk, output.parent)
        for name in (JOURNAL, _LOCK):
            (output / name).unlink()


def _writable(conversion: Conversion) -> Output:
    if conversion.target.output is None:
        raise InputError(f"{conversion.target.name} is read, not written; choose another format with --to")
    output = conversion.output
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"{output} exists already; name another output")
    return conversion.target.output


def _claim(staging: Path) -> None:
    """Make the folder, or take up one that a conversion has left. Raises InputError when it holds something else."""
    staging.mkdir(parents=True, exist_ok=True)
    names = {entry.name for entry in staging.iterdir()}
    if names - {_LOCK, f"{JOURNAL}.partial"} and JOURNAL not in names:
        raise InputError(f"{staging} is in the way and not of a conversion ({max(names)} is in it); move it away")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file while the block runs; the lock of a process that is gone is free."""
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(f"{path.parent} is being written by another conversion; wait for it") from None
        yield


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _free_bytes(path: Path) -> int:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free
