"""Reads a checkpoint of any layout into the tensors of this rank's layout."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from firstlight.checkpoint.files import verify_file
from firstlight.checkpoint.manifest import Manifest, ShardRecord, UnusableCheckpoint
from firstlight.checkpoint.shards import LocalShard, local_shard


def read_tensors(folder: Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors` in place from the checkpoint in `folder`; each file that is needed is verified first.

    Raises UnusableCheckpoint when a file is missing or changed, or a tensor is not there in this shape.
    """
    shards = {name: local_shard(tensor, is_first_rank=False) for name, tensor in tensors.items()}
    needed = {file for name, shard in shards.items() for file in _files_of(folder, manifest, name, shard)}
    for file in sorted(needed):
        record = manifest.files.get(file)
        if record is None:
            raise UnusableCheckpoint(f"{folder}: the manifest names {file} but has no record of it")
        verify_file(folder / file, record)
    for file in sorted(needed):
        _read_file(folder / file, manifest, shards)


def _files_of(folder: Path, manifest: Manifest, name: str, shard: LocalShard) -> Iterator[str]:
    record = manifest.tensors.get(name)
    if record is None:
        raise UnusableCheckpoint(f"{folder} has no tensor {name}")
    if record.shape != shard.global_shape:
        raise UnusableCheckpoint(
            f"{folder}: tensor {name} has shape {list(record.shape)}, this run's has {list(shard.global_shape)}"
        )
    # Each block counts once, wherever it is stored: two copies of one do not fill a hole.
    overlaps = [(saved, _overlap(saved, shard)) for saved in record.shards]
    covered = sum(_volume(region) for region in {region for _, region in overlaps if region is not None})
    if covered != shard.data.numel():
        raise UnusableCheckpoint(f"{folder}: {covered} of {shard.data.numel()} elements of {name} are there")
    return (saved.file for saved, region in overlaps if region is not None)


@torch.no_grad()
def _read_file(path: Path, manifest: Manifest, shards: Mapping[str, LocalShard]) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            for name, shard in shards.items():
                for saved in manifest.tensors[name].shards:
                    region = _overlap(saved, shard) if saved.file == path.name else None
                    if region is not None:
                        key = name.partition("/")[2]
                        source = file.get_slice(key)
                        block = source[_within(region, saved.offset)] if region else file.get_tensor(key)
                        shard.data[_within(region, shard.offset)].copy_(block)
    except (SafetensorError, OSError) as error:
        raise UnusableCheckpoint(f"{path} cannot be read: {error}") from None


Region = tuple[tuple[int, int], ...]
"""Begin and end in each dimension of the whole tensor; empty for a scalar."""


def _overlap(saved: ShardRecord, shard: LocalShard) -> Region | None:
    region = tuple(
        (max(first, second), min(first + first_size, second + second_size))
        for first, first_size, second, second_size in zip(
            saved.offset, saved.shape, shard.offset, shard.data.shape, strict=True
        )
    )
    return region if all(begin < end for begin, end in region) else None


def _within(region: Region, offset: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(begin - start, end - start) for (begin, end), start in zip(region, offset, strict=True))


def _volume(region: Region) -> int:
    volume = 1
    for begin, end in region:
        volume *= end - begin
    return volume
