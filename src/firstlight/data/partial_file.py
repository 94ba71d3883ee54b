"""A file that appears under its name only when it is whole and on disk."""

import os
from pathlib import Path
from typing import BinaryIO

from firstlight.base.errors import InputError

SUFFIX = ".partial"


class PartialFile:
    """Written as `<path>.partial`; `finish` puts it on disk, `publish` gives it its name, `discard` removes it.

    Its folder is made. With `kept_size`, goes on after so many bytes of a partial file that is there already.
    Raises InputError when it cannot be written.
    """

    def __init__(self, path: Path, kept_size: int | None = None) -> None:
        self.path = path
        self._partial = Path(f"{path}{SUFFIX}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = "wb" if kept_size is None else "r+b"
            self.file: BinaryIO = open(self._partial, mode)  # type: ignore[assignment]  # noqa: SIM115  # closed by finish or discard
            if kept_size is not None:
                self.file.truncate(kept_size)
                self.file.seek(kept_size)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}; choose another place for it") from None

    def flush(self) -> None:
        """Put what was written so far on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def finish(self) -> None:
        """Flush to the disk and close. The file still has its partial name."""
        self.flush()
        self.file.close()

    def publish(self) -> None:
        """Give the finished file its name, in place of any older file."""
        publish_partial(self.path)

    def discard(self) -> None:
        """Close and remove what was written; a file that was published stays."""
        self.file.close()
        self._partial.unlink(missing_ok=True)


def publish_partial(path: Path) -> None:
    """Give the finished file `<path>.partial` its name. Raises FileNotFoundError when it is not there."""
    os.replace(f"{path}{SUFFIX}", path)
    _sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`: afterwards either the old file or the whole new one is there."""
    write_partial(path, content)
    publish_partial(path)


def write_partial(path: Path, content: bytes) -> None:
    """Write `content` to disk as `<path>.partial`, which is removed if that fails."""
    partial = PartialFile(path)
    try:
        partial.file.write(content)
        partial.finish()
    except BaseException:
        partial.discard()
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
