"""What a save asks of the disk: one small seam, in which a full, slow or broken disk can stand."""

import os
import shutil
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """The operations of a save, in the order in which it needs them. Each raises OSError when the disk refuses."""

    def make_folder(self, folder: Path) -> None:
        """Make the folder, and those above it. One that is there is left as it is."""

    def write(self, descriptor: int, content: memoryview) -> int:
        """Write at the end of an open file; the number of bytes that were taken, as `os.write`."""

    def fsync(self, descriptor: int) -> None:
        """Return when the file or folder is on the disk."""

    def rename(self, old: Path, new: Path) -> None:
        """Give `old` the name `new`, in one step; a file of that name is replaced."""

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with all that is in it."""

    def free_bytes(self, folder: Path) -> int:
        """The bytes that may still be written there."""


class LocalDisk:
    """The disk, or shared file system, that holds the folder."""

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, descriptor: int, content: memoryview) -> int:
        return os.write(descriptor, content)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    def free_bytes(self, folder: Path) -> int:
        return shutil.disk_usage(folder).free
