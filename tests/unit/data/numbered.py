"""Data sets whose token ids tell where they lie."""

from pathlib import Path

import numpy as np

from firstlight.data.indexed import IndexedDataset
from firstlight.data.indexed_writer import IndexedWriter


def write(prefix: Path, lengths: list[int], dtype: str = "int32", first: int = 0) -> IndexedDataset:
    """Sequences of these lengths with the ids first, first + 1 ... one after the other."""
    with IndexedWriter(prefix, np.dtype(dtype)) as writer:
        for length in lengths:
            start = first + writer.num_tokens
            writer.add(np.arange(start, start + length))
            writer.end_sequence()
            writer.end_document()
    return IndexedDataset.open(prefix)
