"""What the checkpoints of a run are, without loading them: for people who look after a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError, NoCheckpointError
from firstlight.checkpoint.blocks import Region, opened
from firstlight.checkpoint.disk import LocalDisk
from firstlight.checkpoint.manifest import Manifest, TensorRecord, UnusableCheckpoint, read_manifest
from firstlight.checkpoint.object_store import ObjectStore
from firstlight.checkpoint.reader import verify_files
from firstlight.checkpoint.retention import Retention
from firstlight.checkpoint.step_folder import candidates, step_folder, step_of
from firstlight.config.training import CheckpointConfig


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """One checkpoint; `fault` says why it cannot be used, None when nothing speaks against it."""

    step: int
    path: str
    num_bytes: int
    world_size: int
    num_tensors: int
    fault: str | None


def list_checkpoints(folder: Path, key: bytes | None = None) -> list[CheckpointFacts]:
    """All published checkpoints, the newest first; their files are not read."""
    return [_facts(path, key, reads_files=False) for path in candidates(folder)]


def verify_checkpoints(folder: Path, step: int | None, key: bytes | None = None) -> list[CheckpointFacts]:
    """The same after every file was held to its digest; of one step, or of all."""
    paths = candidates(folder) if step is None else [find(folder, step)]
    return [_facts(path, key, reads_files=True) for path in paths]


def stored_checkpoints(
    store: ObjectStore, step: int | None, key: bytes | None = None, *, reads_files: bool
) -> list[CheckpointFacts]:
    """The same of a store; of one step, or of all. Raises InputError when the step is not there."""
    steps = store.steps()
    if step is not None and step not in steps:
        raise InputError(f"{store.url} has no checkpoint of step {step}; there are those of {steps}")
    return [_stored_facts(store, one, key, reads_files=reads_files) for one in (steps if step is None else [step])]


def find(folder: Path, step: int | None) -> Path:
    """The folder of `step`, or of the newest. Raises InputError when it is not there, NoCheckpointError without any."""
    paths = candidates(folder)
    if not paths:
        raise NoCheckpointError(f"no checkpoint in {folder} is there; train first")
    if step is None:
        return paths[0]
    if folder / step_folder(step) not in paths:
        there = ", ".join(str(step_of(path)) for path in paths)
        raise InputError(f"{folder} has no checkpoint of step {step}; there are those of {there}")
    return folder / step_folder(step)


def inspect_checkpoint(folder: Path, step: int | None, key: bytes | None = None) -> dict[str, Any]:
    """The manifest without its configuration, as plain values. Raises NoCheckpointError when it is damaged."""
    manifest = _manifest(find(folder, step), key)
    return manifest.model_dump(mode="json", exclude={"configuration"})


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A tensor that is not the same in two checkpoints: where it is, or by how much its values differ at most."""

    name: str
    what: str
    largest: float | None = None


def compare(folder: Path, first: int, second: int, key: bytes | None = None) -> list[Difference]:
    """The tensors that differ between two steps, by name. One tensor at a time is in memory."""
    paths = [find(folder, step) for step in (first, second)]
    manifests = [_manifest(path, key) for path in paths]
    for path, manifest in zip(paths, manifests, strict=True):
        try:
            verify_files(path, manifest)
        except UnusableCheckpoint as error:
            raise NoCheckpointError(str(error)) from None
    return list(_differences(paths, manifests))


def prune(folder: Path, *, keep_last: int, keep_every_steps: int, key: bytes | None = None) -> list[int]:
    """Remove all but the newest few, those of round steps and the newest good one; the steps that were removed."""
    before = candidates(folder)
    if before:
        config = CheckpointConfig(keep_last=keep_last, keep_every_steps=keep_every_steps)
        Retention(folder, config, LocalDisk(), key).prune()
    return sorted(step_of(path) for path in set(before) - set(candidates(folder)))


def _differences(paths: list[Path], manifests: list[Manifest]) -> Iterator[Difference]:
    ones, others = (manifest.tensors for manifest in manifests)
    for name in sorted(ones.keys() | others.keys()):
        one, other = ones.get(name), others.get(name)
        if one is None or other is None:
            yield Difference(name=name, what=f"only in {paths[one is None].name}")
        elif (one.dtype, one.shape) != (other.dtype, other.shape):
            shown = [f"{record.dtype} {list(record.shape)}" for record in (one, other)]
            yield Difference(name=name, what=f"{shown[0]} and {shown[1]}")
        else:
            largest = _largest_difference(paths, name, (one, other))
            if largest != 0:
                yield Difference(name=name, what="values", largest=largest)


def _largest_difference(paths: list[Path], name: str, records: tuple[TensorRecord, TensorRecord]) -> float:
    first, second = (_whole(path, name, record) for path, record in zip(paths, records, strict=True))
    differ = (first != second) & ~((first != first) & (second != second))
    return float((first.double() - second.double())[differ].abs().max()) if bool(differ.any()) else 0.0


def _whole(folder: Path, name: str, record: TensorRecord) -> Any:
    whole = None
    for shard in record.shards:
        with opened(folder / shard.file) as file:
            region: Region = tuple((0, size) for size in shard.shape)
            block = file.read(name.partition("/")[2], region)
        whole = block.new_empty(record.shape) if whole is None else whole
        place = tuple(slice(begin, begin + size) for begin, size in zip(shard.offset, shard.shape, strict=True))
        whole[place] = block
    return whole


def _manifest(path: Path, key: bytes | None) -> Manifest:
    try:
        return read_manifest(path, key)
    except UnusableCheckpoint as error:
        raise NoCheckpointError(str(error)) from None


def _facts(path: Path, key: bytes | None, *, reads_files: bool) -> CheckpointFacts:
    try:
        manifest = read_manifest(path, key)
        if reads_files:
            verify_files(path, manifest)
    except UnusableCheckpoint as error:
        return _described(step_of(path), str(path), None, str(error))
    return _described(step_of(path), str(path), manifest, None)


def _stored_facts(store: ObjectStore, step: int, key: bytes | None, *, reads_files: bool) -> CheckpointFacts:
    path = f"{store.url}/{step_folder(step)}"
    try:
        manifest = store.verify(step, key) if reads_files else store.manifest(step, key)
    except UnusableCheckpoint as error:
        return _described(step, path, None, str(error))
    return _described(step, path, manifest, None)


def _described(step: int, path: str, manifest: Manifest | None, fault: str | None) -> CheckpointFacts:
    if manifest is None:
        return CheckpointFacts(step=step, path=path, num_bytes=0, world_size=0, num_tensors=0, fault=fault)
    return CheckpointFacts(
        step=step,
        path=path,
        num_bytes=sum(record.num_bytes for record in manifest.files.values()),
        world_size=manifest.world_size,
        num_tensors=len(manifest.tensors),
        fault=None if manifest.is_healthy else f"not finite: {', '.join(manifest.health.not_finite)}",
    )
