"""Writes one checkpoint: aside, every rank its part, manifest last, then one rename."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from firstlight.base.errors import FirstlightError
from firstlight.checkpoint.blocks import NAME_OF_DTYPE, bytes_of, header_of
from firstlight.checkpoint.disk import Disk
from firstlight.checkpoint.files import flush_folder, replace_durably, write_durably
from firstlight.checkpoint.manifest import (
    MANIFEST,
    FileRecord,
    Manifest,
    Part,
    ShardRecord,
    TensorRecord,
    join_parts,
)
from firstlight.checkpoint.shards import LocalShard
from firstlight.checkpoint.snapshot import not_finite_weights

LATEST = "latest"
STAGING_PREFIX = ".staging-"
REPLACED_PREFIX = ".replaced-"


class CheckpointWriter:
    """The pieces of a save in `folder`; a reader sees a whole checkpoint or none. None of them is a collective.

    The first rank prepares; then every rank writes its part; when all have, the first rank publishes. Each raises
    FirstlightError with the path, the reason and the space when the disk refuses; published checkpoints stay.
    """

    def __init__(self, folder: Path, *, rank: int, num_ranks: int, disk: Disk, key: bytes | None = None) -> None:
        self._folder = folder
        self._key = key
        self._disk = disk
        self._rank = rank
        self._num_ranks = num_ranks

    def prepare(self, name: str, num_bytes: int) -> None:
        """Sweep what interrupted saves left, and make the folder for the `num_bytes` that this rank writes."""
        with self._refusals(self._folder, num_bytes):
            self._disk.make_folder(self._folder)
            for prefix in (STAGING_PREFIX, REPLACED_PREFIX):
                for leftover in self._folder.glob(prefix + "*"):
                    self._disk.remove(leftover)
            self._disk.make_folder(self.staging(name))

    def write_part(self, name: str, shards: Mapping[str, LocalShard]) -> None:
        """Write this rank's files, and beside them its part of the manifest."""
        staging = self.staging(name)
        files: dict[str, FileRecord] = {}
        records: dict[str, TensorRecord] = {}
        with self._refusals(staging, sum(shard.data.nbytes for shard in shards.values())):
            for file, names in files_of(shards, rank=self._rank, num_ranks=self._num_ranks).items():
                tensors = {key: shards[name].data for name, key in names.items()}
                files[file] = write_tensors(self._disk, staging / file, tensors)
                records.update({name: _record(shards[name], file) for name in names})
            part = Part(files=files, tensors=records, not_finite=tuple(not_finite_weights(shards)))
            self._write(part_file(staging, self._rank), part.model_dump_json())

    def publish(self, name: str, manifest: Manifest) -> Manifest:
        """Join the parts and make the checkpoint visible; the manifest that is there now.

        `manifest` lacks only what the ranks' parts hold.
        """
        staging, target = self.staging(name), self._folder / name
        part_files = [part_file(staging, rank) for rank in range(self._num_ranks)]
        with self._refusals(staging, sum(file.stat().st_size for file in part_files if file.exists())):
            parts = [Part.model_validate_json(file.read_bytes()) for file in part_files]
            whole = join_parts(manifest, parts, self._key)
            for file in part_files:
                self._disk.remove(file)
            self._write(staging / MANIFEST, whole.text())
            flush_folder(self._disk, staging)
            if target.exists():
                # A checkpoint that was refused when the run was restored: out of the way, gone with the next save.
                _set_aside(self._disk, target)
            self._disk.rename(staging, target)
            flush_folder(self._disk, self._folder)
            replace_durably(self._folder / LATEST, (target.name + "\n").encode(), self._disk)
        return whole

    def give_up(self, name: str) -> None:
        """Free the space of a save that failed, as far as the disk lets us; the next one sweeps the rest."""
        with suppress(OSError):
            self._disk.remove(self.staging(name))

    def _write(self, path: Path, text: str) -> None:
        write_durably(self._disk, path, [memoryview(text.encode())])

    @contextmanager
    def _refusals(self, folder: Path, num_bytes: int) -> Iterator[None]:
        """What the disk refuses becomes one message with the place, the reason, the bytes needed and those free."""
        try:
            yield
        except OSError as error:
            raise FirstlightError(
                f"checkpoint not written in {folder}: {error}; {num_bytes:,} bytes needed, "
                f"{self._free_bytes(folder)} bytes free"
            ) from error

    def _free_bytes(self, folder: Path) -> str:
        existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        try:
            return f"{self._disk.free_bytes(existing):,}"
        except OSError:
            return "an unknown number of"

    def staging(self, name: str) -> Path:
        """Where a save is written before it is published."""
        return self._folder / (STAGING_PREFIX + name)


def files_of(names: Iterable[str], *, rank: int, num_ranks: int) -> dict[str, dict[str, str]]:
    """The files in which a rank writes tensors of these names: one for each kind, and in it each name's key."""
    files: dict[str, dict[str, str]] = {}
    for name in sorted(names, key=lambda one: one.partition("/")[0]):
        kind, _, key = name.partition("/")
        files.setdefault(f"{kind}-{rank + 1:05d}-of-{num_ranks:05d}.safetensors", {})[name] = key
    return files


def write_tensors(disk: Disk, path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Write one safetensors file out of the tensors' own memory; what is on a device comes over one by one."""
    header, names = header_of(tensors)
    blocks = (bytes_of(tensors[name].cpu().contiguous()) for name in names)
    return write_durably(disk, path, itertools.chain([memoryview(header)], blocks))


def remove(disk: Disk, old: Sequence[Path]) -> None:
    """Remove published checkpoints, each whole before the eyes of a reader. Raises FirstlightError."""
    for folder in old:
        try:
            disk.remove(_set_aside(disk, folder))
        except OSError as error:
            raise FirstlightError(f"old checkpoint {folder} cannot be removed: {error}") from error


def _set_aside(disk: Disk, folder: Path) -> Path:
    """Take a published checkpoint out of sight, in one rename; what is left of it goes with the next save."""
    aside = folder.with_name(REPLACED_PREFIX + folder.name)
    if aside.exists():
        disk.remove(aside)
    disk.rename(folder, aside)
    return aside


def _record(shard: LocalShard, file: str) -> TensorRecord:
    placed = ShardRecord(file=file, offset=shard.offset, shape=tuple(shard.data.shape))
    return TensorRecord(dtype=NAME_OF_DTYPE[shard.data.dtype], shape=shard.global_shape, shards=(placed,))


def part_file(staging: Path, rank: int) -> Path:
    """Where a rank leaves its part of the manifest."""
    return staging / f"part-{rank:05d}.json"
