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
from firstlight.checkpoint.files import flush_folder
from firstlight.checkpoint.manifest import MANIFEST, UnusableCheckpoint, read_manifest
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


def snapshot_folder(identity: str, run_folder: Path) -> Path:
    """The folder in memory for the run of this `identity`, made if need be; those of deleted runs are removed.

    Raises InputError where the machine has no such memory, or another user's folder is in the way.
    """
    if not SHARED_MEMORY.is_dir():
        raise InputError(f"resilience.snapshot_every_steps needs {SHARED_MEMORY}, which this machine does not have")
    folder = SHARED_MEMORY / f"{_PREFIX}{os.getuid()}-{identity}"
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


def _copy(disk: LocalDisk, source: Path, target: Path) -> None:
    """All files, the manifest last."""
    names: Sequence[str] = sorted((path.name for path in source.iterdir()), key=lambda name: (name == MANIFEST, name))
    for name in names:
        with (source / name).open("rb") as read, (target / name).open("xb") as written:
            shutil.copyfileobj(read, written, _COPIED_BYTES)
            written.flush()
            disk.fsync(written.fileno())
    flush_folder(disk, target)


def _is_sound(folder: Path, key: bytes | None) -> bool:
    try:
        manifest = read_manifest(folder, key)
        verify_files(folder, manifest)
    except UnusableCheckpoint as error:
        get_logger().warning(f"snapshot passed over: {error}")
        return False
    return manifest.is_healthy
