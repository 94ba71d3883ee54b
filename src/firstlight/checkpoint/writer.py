"""Writes one checkpoint: aside, every rank its part, manifest last, then one rename."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from firstlight.base.errors import FirstlightError
from firstlight.checkpoint.blocks import NAME_OF_DTYPE
from firstlight.checkpoint.files import flush_folder, replace_durably, write_durably, write_tensors
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

    def __init__(self, folder: Path, *, rank: int, num_ranks: int) -> None:
        self._folder = folder
        self._rank = rank
        self._num_ranks = num_ranks

    def prepare(self, name: str) -> None:
        """Sweep what interrupted saves left, and make the folder that is written to."""
        with _refusals(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for prefix in (STAGING_PREFIX, REPLACED_PREFIX):
                for leftover in self._folder.glob(prefix + "*"):
                    shutil.rmtree(leftover)
            self._staging(name).mkdir()

    def write_part(self, name: str, shards: Mapping[str, LocalShard]) -> None:
        """Write this rank's files, and beside them its part of the manifest."""
        staging = self._staging(name)
        files: dict[str, FileRecord] = {}
        records: dict[str, TensorRecord] = {}
        with _refusals(staging, num_bytes=sum(shard.data.nbytes for shard in shards.values())):
            for kind in sorted({name.partition("/")[0] for name in shards}):
                names = [name for name in shards if name.partition("/")[0] == kind]
                file = f"{kind}-{self._rank + 1:05d}-of-{self._num_ranks:05d}.safetensors"
                files[file] = write_tensors(staging / file, {_key(name): shards[name].data for name in names})
                records.update({name: _record(shards[name], file) for name in names})
            part = Part(files=files, tensors=records, not_finite=tuple(not_finite_weights(shards)))
            write_durably(_part_file(staging, self._rank), part.model_dump_json().encode())

    def publish(self, name: str, manifest: Manifest) -> Manifest:
        """Join the parts and make the checkpoint visible; the manifest that is there now.

        `manifest` lacks only what the ranks' parts hold.
        """
        staging, target = self._staging(name), self._folder / name
        part_files = [_part_file(staging, rank) for rank in range(self._num_ranks)]
        with _refusals(staging):
            whole = join_parts(manifest, [Part.model_validate_json(file.read_bytes()) for file in part_files])
            for file in part_files:
                file.unlink()
            write_durably(staging / MANIFEST, whole.text().encode())
            flush_folder(staging)
            if target.exists():
                # A checkpoint that was refused when the run was restored: out of the way, gone with the next save.
                _set_aside(target)
            staging.rename(target)
            flush_folder(self._folder)
            replace_durably(self._folder / LATEST, (target.name + "\n").encode())
        return whole

    def give_up(self, name: str) -> None:
        """Free the space of a save that failed, as far as the disk lets us; the next one sweeps the rest."""
        shutil.rmtree(self._staging(name), ignore_errors=True)

    def _staging(self, name: str) -> Path:
        return self._folder / (STAGING_PREFIX + name)


def remove(old: Sequence[Path]) -> None:
    """Remove published checkpoints, each whole before the eyes of a reader. Raises FirstlightError."""
    for folder in old:
        try:
            shutil.rmtree(_set_aside(folder))
        except OSError as error:
            raise FirstlightError(f"old checkpoint {folder} cannot be removed: {error}") from error


def _set_aside(folder: Path) -> Path:
    """Take a published checkpoint out of sight, in one rename; what is left of it goes with the next save."""
    aside = folder.with_name(REPLACED_PREFIX + folder.name)
    if aside.exists():
        shutil.rmtree(aside)
    return folder.rename(aside)


@contextmanager
def _refusals(folder: Path, *, num_bytes: int | None = None) -> Iterator[None]:
    """What the disk refuses becomes one message with the place, the reason, the bytes needed and those free."""
    try:
        yield
    except OSError as error:
        needed = "" if num_bytes is None else f"{num_bytes:,} bytes needed, "
        raise FirstlightError(
            f"checkpoint not written in {folder}: {error}; {needed}{_free_bytes(folder)} bytes free"
        ) from error


def _free_bytes(folder: Path) -> str:
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        return f"{shutil.disk_usage(existing).free:,}"
    except OSError:
        return "an unknown number of"


def _record(shard: LocalShard, file: str) -> TensorRecord:
    placed = ShardRecord(file=file, offset=shard.offset, shape=tuple(shard.data.shape))
    return TensorRecord(dtype=NAME_OF_DTYPE[shard.data.dtype], shape=shard.global_shape, shards=(placed,))


def _part_file(staging: Path, rank: int) -> Path:
    return staging / f"part-{rank:05d}.json"


def _key(name: str) -> str:
    """A tensor's key in its file: without the kind, which is the file's name."""
    return name.partition("/")[2]
