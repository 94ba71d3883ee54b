"""A cheap mark of a data set's content, for a checkpoint to notice that the data under it has changed."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from firstlight.data.indexed import bin_path, idx_path

_EDGE_BYTES = 1 << 20


def fingerprint(prefix: Path) -> str:
    """Hex SHA-256 over sizes, first and last MiB of .idx and .bin; where the files lie does not matter."""
    digest = hashlib.sha256()
    for path in (idx_path(prefix), bin_path(prefix)):
        for part in _edges(path):
            digest.update(part)
    return digest.hexdigest()


def fingerprint_of_sources(prefixes: Sequence[Path], weights: Sequence[float], order: str) -> str:
    """One mark for all sources of a run, in their order, with their weights; these add up to 1.

    A single source in Megatron's order has the mark of its files.
    """
    marks = [fingerprint(prefix) for prefix in prefixes]
    if len(marks) == 1 and order == "megatron":
        return marks[0]
    shares = [weight.hex() for weight in weights]
    return hashlib.sha256(json.dumps([order, marks, shares]).encode()).hexdigest()


def _edges(path: Path) -> tuple[bytes, bytes, bytes]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        first = file.read(_EDGE_BYTES)
        file.seek(max(0, size - _EDGE_BYTES))
        return size.to_bytes(8, "little"), first, file.read(_EDGE_BYTES)
