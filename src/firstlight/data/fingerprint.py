"""A cheap mark of a data set's content, for a checkpoint to notice that the data under it has changed."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstlight.data.indexed import bin_path, idx_path

_EDGE_BYTES = 1 << 20


def fingerprint(prefix: Path) -> str:
    """Of a Megatron data set, as hexadecimal SHA-256; where the files lie does not matter."""
    return fingerprint_of_files((idx_path(prefix), bin_path(prefix)))


def fingerprint_of_files(paths: Sequence[Path]) -> str:
    """Hex SHA-256 over sizes, first and last MiB of files."""
    digest = hashlib.sha256()
    for path in paths:
        for part in _edges(path):
            digest.update(part)
    return digest.hexdigest()


def fingerprint_of_sources(marks: Sequence[str], weights: Sequence[Sequence[float]], how: Sequence[Any]) -> str:
    """One mark for the marks of all sources of a run, their weights in each stage, and `how` they are read.

    A single source in Megatron's order has the mark of its files.
    """
    if len(marks) == 1 and list(how) == ["megatron", None]:
        return marks[0]
    shares = [[weight.hex() for weight in stage] for stage in weights]
    return hashlib.sha256(json.dumps([list(how), list(marks), shares]).encode()).hexdigest()


def _edges(path: Path) -> tuple[bytes, bytes, bytes]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        first = file.read(_EDGE_BYTES)
        file.seek(max(0, size - _EDGE_BYTES))
        return size.to_bytes(8, "little"), first, file.read(_EDGE_BYTES)
