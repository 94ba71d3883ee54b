"""Checkpoints in the machine's memory: the format of those on the disk, in a folder that outlives the processes.

Linux keeps /dev/shm in memory, so a snapshot costs a copy and its hashing. It is gone with the machine.
"""

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from firstlight.base.errors import FirstlightError, InputError
from firstlight.base.log import get_logger
from firstlight.checkpoint.disk import LocalDisk
from firstlight.checkpoint.files import flush_folder, replace_durably
from firstlight.checkpoint.manifest import MANIFEST, FileRecord, UnusableCheckpoint, read_manifest
from firstlight.checkpoint.pieces import verify_file
from firstlight.checkpoint.reader import verify_files
from firstlight.checkpoint.step_folder import candidates, step_of
from firstlight.checkpoint.writer import STAGING_PREFIX

SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "firstlight-"
_OWNER = "run-folder"
_COPIED_BYTES = 1 << 24


class MemoryDisk(LocalDisk):
    """Memory has nothing to flush to."""

    def fsync(self, descriptor: int) -> None:  # noqa: ARG002 - as every disk has it
        return None


def snapshot_folder(identity: str, run_folder: Path, node: int | None = None) -> Path:
    """The folder in memory for the run of this `identity`, made if need be; those of deleted runs are removed. Of a run
    on several machines each `node` has its own.

    Raises InputError where the machine has no such memory, or another user's folder is in the way.
    """
    if not SHARED_MEMORY.is_dir():
        raise InputError(f"resilience.snapshot_every_steps needs {SHARED_MEMORY}, which this machine does not have")
    place = "" if node is None else f"-node-{node}"
    folder = SHARED_MEMORY / f"{_PREFIX}{os.getuid()}-{identity}{place}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise InputError(f"{folder} is not this user's; resilience.snapshot_every_steps cannot use it")
    (folder / _OWNER).write_text(str(run_folder))
    _sweep(folder)
    return folder


def _sweep(own: Path) -> None:
    for folder in SHARED_MEMORY.glob(f"{_PREFIX}{os.getuid()}-*"):
        owner = folder / _OWNER
        if folder != own and owner.is_file() and not Path(owner.read_text()).exists():
            LocalDisk().remove(folder)


def rescue(snapshots: Path, checkpoints: Path, key: bytes | None) -> Path | None:
    """Copy the newest sound snapshot to the disk when it is newer than what is there; its new folder, or None.

    Raises FirstlightError when the disk refuses.
    """
    on_disk = max((step_of(folder) for folder in candidates(checkpoints)), default=-1)
    newest = next((folder for folder in candidates(snapshots) if _is_sound(folder, key)), None)
    if newest is None or step_of(newest) <= on_disk:
        return None
    disk, staging, target = LocalDisk(), checkpoints / (STAGING_PREFIX + newest.name), checkpoints / newest.name
    try:
        if staging.exists():
            disk.remove(staging)
        disk.make_folder(staging)
        _copy(disk, newest, staging)
        disk.rename(staging, target)
        flush_folder(disk, checkpoints)
    except OSError as error:
        raise FirstlightError(f"{newest} cannot be copied to {target}: {error}") from None
    return target


def rescue_share(snapshots: Path, checkpoints: Path, key: bytes | None) -> Path | None:
    """What `rescue` does, on one of several nodes: copy what this one has of its snapshots to the disk that all reach.

    Who completes a checkpoint publishes it; its folder, or None when others do, or the disk has it already.
    Raises FirstlightError when the disk refuses.
    """
    on_disk = max((step_of(folder) for folder in candidates(checkpoints)), default=-1)
    try:
        for folder in candidates(snapshots):
            if step_of(folder) > on_disk and _is_known(folder, key):
                target = _share(folder, checkpoints, key)
                if target is not None or (checkpoints / folder.name).exists():
                    return target
    except OSError as error:
        raise FirstlightError(f"{snapshots} cannot be copied to {checkpoints}: {error}") from None
    return None


def _share(snapshot: Path, checkpoints: Path, key: bytes | None) -> Path | None:
    """Copy the sound files that are here; the published folder when they were the last ones."""
    disk, staging, target = LocalDisk(), checkpoints / (STAGING_PREFIX + snapshot.name), checkpoints / snapshot.name
    manifest = read_manifest(snapshot, key)
    disk.make_folder(staging)
    for name, record in manifest.files.items():
        if not (staging / name).exists() and _is_file_sound(snapshot / name, record):
            aside = staging / f"{name}.{os.getpid()}"
            _copy_file(disk, snapshot / name, aside)
            disk.rename(aside, staging / name)
    if any(not (staging / name).exists() for name in manifest.files):
        return None
    replace_durably(staging / MANIFEST, manifest.text().encode(), disk)
    flush_folder(disk, staging)
    disk.rename(staging, target)
    flush_folder(disk, checkpoints)
    return target


def _copy(disk: LocalDisk, source: Path, target: Path) -> None:
    """All files, the manifest last."""
    names: Sequence[str] = sorted((path.name for path in source.iterdir()), key=lambda name: (name == MANIFEST, name))
    for name in names:
        _copy_file(disk, source / name, target / name)
    flush_folder(disk, target)


def _copy_file(disk: LocalDisk, source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("xb") as written:
        shutil.copyfileobj(read, written, _COPIED_BYTES)
        written.flush()
        disk.fsync(written.fileno())


def _is_file_sound(path: Path, record: FileRecord) -> bool:
    try:
        verify_file(path, record)
    except UnusableCheckpoint:
        return False
    return True


def _is_known(folder: Path, key: bytes | None) -> bool:
    """Whether there is a manifest of a healthy state."""
    try:
        return read_manifest(folder, key).is_healthy
    except UnusableCheckpoint:
        return False


def _is_sound(folder: Path, key: bytes | None) -> bool:
    try:
        manifest = read_manifest(folder, key)
        verify_files(folder, manifest)
    except UnusableCheckpoint as error:
        get_logger().warning(f"snapshot passed over: {error}")
        return False
    return manifest.is_healthy
