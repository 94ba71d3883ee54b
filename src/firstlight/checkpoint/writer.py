"""Writes one checkpoint: aside, every rank its part, manifest last, then one rename."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from firstlight.base.errors import FirstlightError
from firstlight.base.peers import Peers, together
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
from firstlight.checkpoint.shards import LocalShard, local_shard

LATEST = "latest"
STAGING_PREFIX = ".staging-"
REPLACED_PREFIX = ".replaced-"


class CheckpointWriter:
    """Publishes checkpoints in `folder`. A reader sees a whole one or none."""

    def __init__(self, folder: Path, peers: Peers) -> None:
        self._folder = folder
        self._peers = peers

    def write(self, name: str, tensors: Mapping[str, Tensor], manifest: Manifest) -> None:
        """Publish `tensors` as the folder `name`; `manifest` lacks only files and tensors. Collective.

        Raises FirstlightError on every rank when one of them could not write; the old checkpoints stay as they are.
        """
        staging = self._folder / (STAGING_PREFIX + name)
        is_first = self._peers.rank == 0
        target = self._folder / name
        together(self._peers, partial(_act, partial(self._prepare, staging) if is_first else None))
        together(self._peers, partial(_act, partial(self._write_part, staging, tensors)))
        together(self._peers, partial(_act, partial(self._publish, staging, target, manifest) if is_first else None))

    def remove(self, old: Sequence[Path]) -> None:
        """Remove published checkpoints, each whole before the eyes of a reader. Collective."""
        together(self._peers, partial(_act, partial(_remove, old) if self._peers.rank == 0 else None))

    def _prepare(self, staging: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for prefix in (STAGING_PREFIX, REPLACED_PREFIX):
            for leftover in self._folder.glob(prefix + "*"):
                shutil.rmtree(leftover)
        staging.mkdir()

    def _write_part(self, staging: Path, tensors: Mapping[str, Tensor]) -> None:
        rank = self._peers.rank
        shards = {name: local_shard(tensor, is_first_rank=rank == 0) for name, tensor in tensors.items()}
        mine = {name: shard for name, shard in shards.items() if shard.is_written}
        files: dict[str, FileRecord] = {}
        records: dict[str, TensorRecord] = {}
        for kind in sorted({name.partition("/")[0] for name in mine}):
            names = [name for name in mine if name.partition("/")[0] == kind]
            file = f"{kind}-{rank + 1:05d}-of-{self._peers.size:05d}.safetensors"
            files[file] = write_tensors(staging / file, {_key(name): mine[name].data for name in names})
            records.update({name: _record(mine[name], file) for name in names})
        part = Part(files=files, tensors=records)
        write_durably(_part_file(staging, rank), part.model_dump_json().encode())

    def _publish(self, staging: Path, target: Path, manifest: Manifest) -> None:
        part_files = [_part_file(staging, rank) for rank in range(self._peers.size)]
        files, tensors = join_parts([Part.model_validate_json(file.read_bytes()) for file in part_files])
        whole = manifest.model_copy(update={"files": files, "tensors": tensors}).sealed()
        for file in part_files:
            file.unlink()
        write_durably(staging / MANIFEST, whole.model_dump_json(indent=1).encode())
        flush_folder(staging)
        if target.exists():
            # A checkpoint that was refused when the run was restored: out of the way, and gone with the next save.
            _set_aside(target)
        staging.rename(target)
        flush_folder(self._folder)
        replace_durably(self._folder / LATEST, (target.name + "\n").encode())


def _remove(old: Sequence[Path]) -> None:
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


def _act(step: Callable[[], None] | None) -> None:
    """Do this rank's part, if it has one; a file that cannot be written is a failure with its reason."""
    try:
        if step is not None:
            step()
    except OSError as error:
        raise FirstlightError(f"checkpoint not written: {error}") from error


def _record(shard: LocalShard, file: str) -> TensorRecord:
    placed = ShardRecord(file=file, offset=shard.offset, shape=tuple(shard.data.shape))
    return TensorRecord(dtype=NAME_OF_DTYPE[shard.data.dtype], shape=shard.global_shape, shards=(placed,))


def _part_file(staging: Path, rank: int) -> Path:
    return staging / f"part-{rank:05d}.json"


def _key(name: str) -> str:
    """A tensor's key in its file: without the kind, which is the file's name."""
    return name.partition("/")[2]
