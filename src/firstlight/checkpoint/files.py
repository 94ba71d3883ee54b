"""Files that survive a power cut: written, flushed to the disk, hashed."""

import hashlib
import os
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from firstlight.checkpoint.manifest import FileRecord, UnusableCheckpoint

_BLOCK_BYTES = 1 << 22


def write_durably(path: Path, content: bytes) -> FileRecord:
    """Write and flush a new file; its record."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> FileRecord:
    """Write one safetensors file."""
    return write_durably(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


def replace_durably(path: Path, content: bytes) -> None:
    """Put `content` in the place of `path`, whole or not at all."""
    aside = path.with_name(path.name + ".partial")
    aside.unlink(missing_ok=True)
    write_durably(aside, content)
    os.replace(aside, path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Make renames and new files in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_file(path: Path, record: FileRecord) -> None:
    """Raise UnusableCheckpoint unless the file is, byte for byte, the one that was recorded."""
    try:
        size = path.stat().st_size
        if size != record.num_bytes:
            raise UnusableCheckpoint(f"{path} has {size} bytes, expected {record.num_bytes}")
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise UnusableCheckpoint(f"{path} cannot be read: {error}") from None
    if digest.hexdigest() != record.sha256:
        raise UnusableCheckpoint(f"{path} is changed: SHA-256 {digest.hexdigest()}, expected {record.sha256}")
