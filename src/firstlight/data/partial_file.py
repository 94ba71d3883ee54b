"""A file that appears under its name only when it is whole and on disk."""

import os
from pathlib import Path
from typing import BinaryIO

from firstlight.base.errors import InputError

SUFFIX = ".partial"


class PartialFile:
    """Written as `<path>.partial`; `finish` puts it on disk, `publish` gives it its name, `discard` removes it.

    Its folder is made. Raises InputError when it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = Path(f"{path}{SUFFIX}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file: BinaryIO = open(self._partial, "wb")  # noqa: SIM115  # closed by finish or discard
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}; choose another place for it") from None

    def finish(self) -> None:
        """Flush to the disk and close. The file still has its partial name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def publish(self) -> None:
        """Give the finished file its name, in place of any older file."""
        os.replace(self._partial, self.path)
        _sync_folder(self.path.parent)

    def discard(self) -> None:
        """Close and remove what was written; a file that was published stays."""
        self.file.close()
        self._partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`: afterwards either the old file or the whole new one is there."""
    partial = PartialFile(path)
    try:
        partial.file.write(content)
        partial.finish()
        partial.publish()
    finally:
        partial.discard()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
