"""Writes one checkpoint: aside, every rank its part, manifest last, then one rename."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.base.peers import Peers
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

_NAME_OF_DTYPE = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


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
        self._together(lambda: self._prepare(staging), only_first=True)
        self._together(lambda: self._write_part(staging, tensors))
        self._together(lambda: self._publish(staging, self._folder / name, manifest), only_first=True)

    def _together(self, act: Any, *, only_first: bool = False) -> None:
        """Do a step on all ranks or on the first; go on only when nobody failed."""
        failure: OSError | None = None
        if not only_first or self._peers.rank == 0:
            try:
                act()
            except OSError as error:
                failure = error
                get_logger().error(f"checkpoint not written: {error}")
        if not self._peers.all_true(failure is None):
            raise FirstlightError(f"checkpoint not written: {failure or 'another rank failed, see its line above'}")

    def _prepare(self, staging: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in [*self._folder.glob(STAGING_PREFIX + "*"), *self._folder.glob(REPLACED_PREFIX + "*")]:
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
        whole = manifest.model_copy(update={"files": files, "tensors": tensors})
        for file in part_files:
            file.unlink()
        write_durably(staging / MANIFEST, whole.model_dump_json(indent=1).encode())
        flush_folder(staging)
        if target.exists():
            # A checkpoint that was refused when the run was restored: out of the way, and gone once the new one stands.
            target.rename(target.with_name(REPLACED_PREFIX + target.name))
        staging.rename(target)
        flush_folder(self._folder)
        replace_durably(self._folder / LATEST, (target.name + "\n").encode())


def _record(shard: LocalShard, file: str) -> TensorRecord:
    placed = ShardRecord(file=file, offset=shard.offset, shape=tuple(shard.data.shape))
    return TensorRecord(dtype=_NAME_OF_DTYPE[shard.data.dtype], shape=shard.global_shape, shards=(placed,))


def _part_file(staging: Path, rank: int) -> Path:
    return staging / f"part-{rank:05d}.json"


def _key(name: str) -> str:
    """A tensor's key in its file: without the kind, which is the file's name."""
    return name.partition("/")[2]
