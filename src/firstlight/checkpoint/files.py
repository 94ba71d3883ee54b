"""Files that survive a power cut: written, flushed to the disk, hashed on the way."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from firstlight.checkpoint.disk import Disk, LocalDisk
from firstlight.checkpoint.manifest import PIECE_BYTES, FileRecord
from firstlight.checkpoint.pieces import HASHING_THREADS, digest_of, in_pieces


def write_durably(disk: Disk, path: Path, content: Iterable[memoryview], piece_bytes: int = PIECE_BYTES) -> FileRecord:
    """Write and flush a new file; its record. Nothing is copied: `content` must not change until this returns."""
    num_bytes = 0
    with path.open("xb", buffering=0) as file, ThreadPoolExecutor(HASHING_THREADS, "hash") as hashing:
        digests = []
        # Hashing releases the interpreter, as writing does: both go on at once.
        for piece in in_pieces(content, piece_bytes):
            digests.append(hashing.submit(digest_of, piece))
            for part in piece:
                num_bytes += part.nbytes
                _write_all(disk, file.fileno(), part)
        disk.fsync(file.fileno())
    return FileRecord(num_bytes=num_bytes, piece_bytes=piece_bytes, pieces=tuple(one.result() for one in digests))


def replace_durably(path: Path, content: bytes, disk: Disk | None = None) -> None:
    """Put `content` in the place of `path`, whole or not at all."""
    disk = disk or LocalDisk()
    aside = path.with_name(path.name + ".partial")
    if aside.exists():
        disk.remove(aside)
    write_durably(disk, aside, [memoryview(content)])
    disk.rename(aside, path)
    flush_folder(disk, path.parent)


def flush_folder(disk: Disk, folder: Path) -> None:
    """Make renames and new files in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        disk.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(disk: Disk, descriptor: int, content: memoryview) -> None:
    while content:
        content = content[disk.write(descriptor, content) :]
