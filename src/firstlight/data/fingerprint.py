"""A cheap mark of a data set's content, for a checkpoint to notice that the data under it has changed."""

import hashlib
from pathlib import Path

from firstlight.data.indexed import IndexedDataset, bin_path, idx_path

_EDGE_BYTES = 1 << 20


def fingerprint(indexed: IndexedDataset) -> str:
    """Hex SHA-256 over sizes, first and last MiB of .idx and .bin; where the files lie does not matter."""
    digest = hashlib.sha256()
    for path in (idx_path(indexed.prefix), bin_path(indexed.prefix)):
        for part in _edges(path):
            digest.update(part)
    return digest.hexdigest()


def _edges(path: Path) -> tuple[bytes, bytes, bytes]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        first = file.read(_EDGE_BYTES)
        file.seek(max(0, size - _EDGE_BYTES))
        return size.to_bytes(8, "little"), first, file.read(_EDGE_BYTES)
