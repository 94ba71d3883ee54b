"""Reads a checkpoint of any layout into the tensors of this rank's layout, of each file only what this rank needs."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from firstlight.base.log import get_logger
from firstlight.base.peers import Peers
from firstlight.checkpoint.blocks import NAME_OF_DTYPE, BlockFile, Region, opened
from firstlight.checkpoint.manifest import Manifest, ShardRecord, UnusableCheckpoint, read_manifest
from firstlight.checkpoint.pieces import Landing, checked, reading_ahead, verify_file
from firstlight.checkpoint.shards import LocalShard, local_shard

Result = TypeVar("Result")

Part = tuple[str, ShardRecord, Region]
"""A tensor, a block of it in a file, and the region of the tensor that is taken from there."""


class ReadPlan:
    """Which parts of which files fill this rank's shards. Raises UnusableCheckpoint when some are not there."""

    def __init__(self, folder: Path, manifest: Manifest, shards: Mapping[str, LocalShard]) -> None:
        self._folder = folder
        self._manifest = manifest
        self._shards = shards
        self._parts: dict[str, list[Part]] = {}
        for name, shard in shards.items():
            self._plan(name, shard)
        for file in self._parts:
            if file not in manifest.files:
                raise UnusableCheckpoint(f"{folder}: the manifest names {file} but has no record of it")

    @property
    def files(self) -> set[str]:
        """The names of the files that this rank needs."""
        return set(self._parts)

    @torch.no_grad()
    def read(self) -> int:
        """Fill the shards, checking every piece that is read; the number of bytes of tensors that were read for it.

        Raises UnusableCheckpoint, and may have filled some of them then.
        """
        total = 0
        with ExitStack() as files, reading_ahead() as ahead:
            for file in sorted(self._parts):
                path, record = self._folder / file, self._manifest.files[file]
                pieces = files.enter_context(checked(path, record))
                blocks = BlockFile(path, pieces.fill, record.num_bytes)
                pieces.land(self._landings(blocks, file), ahead)
                total += blocks.num_read
        return total

    @torch.no_grad()
    def read_verified(self) -> int:
        """The same for files that were verified as a whole before."""
        total = 0
        for file in sorted(self._parts):
            with opened(self._folder / file) as blocks:
                for landing in self._landings(blocks, file):
                    blocks.fill(landing)
                total += blocks.num_read
        return total

    def _in_order(self, blocks: BlockFile, file: str) -> list[Part]:
        """What is needed of a file, in the order in which it lies there."""
        for name, saved, _ in self._parts[file]:
            self._check_block(blocks, name, saved)
        return sorted(self._parts[file], key=lambda part: blocks.span(_key(part[0]), _moved(part[2], part[1].offset)))

    def _landings(self, blocks: BlockFile, file: str) -> Iterator[Landing]:
        for name, saved, region in self._in_order(blocks, file):
            shard = self._shards[name]
            target = shard.data[_slices(_moved(region, shard.offset))]
            yield blocks.landing(_key(name), _moved(region, saved.offset), target)

    def _plan(self, name: str, shard: LocalShard) -> None:
        record = self._manifest.tensors.get(name)
        if record is None:
            raise UnusableCheckpoint(f"{self._folder} has no tensor {name}")
        here = (NAME_OF_DTYPE[shard.data.dtype], shard.global_shape)
        for what, saved, live in zip(("data type", "shape"), (record.dtype, record.shape), here, strict=True):
            if saved != live:
                raise UnusableCheckpoint(
                    f"{self._folder}: tensor {name} has {what} {_shown(saved)}, this run's has {_shown(live)}"
                )
        # Each block counts once, wherever it is stored: two copies of one do not fill a hole.
        found: dict[Region, ShardRecord] = {}
        for saved_shard in record.shards:
            region = _overlap(saved_shard, shard)
            if region is not None:
                found.setdefault(region, saved_shard)
        covered = sum(_volume(region) for region in found)
        if covered != shard.data.numel():
            raise UnusableCheckpoint(f"{self._folder}: {covered} of {shard.data.numel()} elements of {name} are there")
        for region, saved_shard in found.items():
            self._parts.setdefault(saved_shard.file, []).append((name, saved_shard, region))

    def _check_block(self, blocks: BlockFile, name: str, saved: ShardRecord) -> None:
        block = blocks.blocks.get(_key(name))
        expected = (self._manifest.tensors[name].dtype, saved.shape)
        found = (NAME_OF_DTYPE[block.dtype], block.shape) if block else None
        if found != expected:
            raise UnusableCheckpoint(
                f"{self._folder / saved.file}: tensor {name} is {found}, expected {expected} as the manifest says"
            )


Refusal = Callable[[Mapping[str, Any]], str | None]
"""Why a saved state is not wanted."""


class Bring(Protocol):
    """Brings what is missing in a folder here from where it is. Every method is a collective."""

    def bring_manifest(self, folder: Path) -> None: ...

    def bring_files(self, folder: Path, manifest: Manifest, names: Collection[str]) -> None: ...


def load(
    folder: Path,
    tensors: Mapping[str, Tensor],
    peers: Peers,
    key: bytes | None = None,
    *,
    bring: Bring | None = None,
    refusal: Refusal = lambda _state: None,
) -> Manifest | None:
    """Fill `tensors` from the checkpoint in `folder`; None when that is not possible on all ranks. Collective.

    Each rank reads and checks the pieces that its own shards are in. A rank on which that fails says why; the tensors
    are of no use then, until another checkpoint has filled them.
    """
    if bring is not None:
        bring.bring_manifest(folder)
    manifest = _agreed(peers, lambda: _healthy(folder, key, refusal))
    if manifest is None or not _is_same_everywhere(peers, manifest, folder):
        return None
    shards = {name: local_shard(tensor, is_first_rank=False) for name, tensor in tensors.items()}
    plan = _agreed(peers, lambda: ReadPlan(folder, manifest, shards))
    if plan is None:
        return None
    if bring is not None:
        bring.bring_files(folder, manifest, plan.files)
    return manifest if _agreed(peers, plan.read) is not None else None


def _healthy(folder: Path, key: bytes | None, refusal: Refusal) -> Manifest:
    manifest = read_manifest(folder, key)
    reason = refusal(manifest.state)
    if reason is not None:
        raise UnusableCheckpoint(f"{folder}: {reason}")
    if not manifest.is_healthy:
        names = ", ".join(manifest.health.not_finite)
        raise UnusableCheckpoint(f"{folder} is unhealthy: values that are not finite in {names}")
    return manifest


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Raise UnusableCheckpoint unless every file is as it was recorded."""
    for name in sorted(manifest.files):
        verify_file(folder / name, manifest.files[name])


def _agreed(peers: Peers, act: Callable[[], Result]) -> Result | None:
    """What `act` returns when it succeeds on all ranks, else None."""
    result: Result | None = None
    try:
        result = act()
    except UnusableCheckpoint as error:
        get_logger().warning(f"checkpoint passed over: {error}")
    return result if peers.all_true(result is not None) else None


def _is_same_everywhere(peers: Peers, manifest: Manifest, folder: Path) -> bool:
    number = float(int(manifest.digest[:8], 16))
    if peers.all_true(peers.sum([number])[0] == number * peers.size):
        return True
    get_logger().warning(f"checkpoint passed over: {folder} is not the same for all ranks")
    return False


def _overlap(saved: ShardRecord, shard: LocalShard) -> Region | None:
    region = tuple(
        (max(first, second), min(first + first_size, second + second_size))
        for first, first_size, second, second_size in zip(
            saved.offset, saved.shape, shard.offset, shard.data.shape, strict=True
        )
    )
    return region if all(begin < end for begin, end in region) else None


def _moved(region: Region, offset: tuple[int, ...]) -> Region:
    """The same region, counted from `offset`."""
    return tuple((begin - start, end - start) for (begin, end), start in zip(region, offset, strict=True))


def _slices(region: Region) -> tuple[slice, ...]:
    return tuple(slice(begin, end) for begin, end in region)


def _volume(region: Region) -> int:
    return math.prod(end - begin for begin, end in region)


def _shown(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _key(name: str) -> str:
    """A tensor's key in its file: without the kind, which is the file's name."""
    return name.partition("/")[2]
