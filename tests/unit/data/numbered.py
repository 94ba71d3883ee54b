"""Data sets whose token ids tell where they lie, and samples read one by one."""

from pathlib import Path

import numpy as np

from firstlight.data.indexed import IndexedDataset
from firstlight.data.indexed_writer import IndexedWriter
from firstlight.data.samples import Dataset, read_samples


def write(prefix: Path, lengths: list[int], dtype: str = "int32", first: int = 0) -> IndexedDataset:
    """Sequences of these lengths with the ids first, first + 1 ... one after the other."""
    with IndexedWriter(prefix, np.dtype(dtype)) as writer:
        for length in lengths:
            start = first + writer.num_tokens
            writer.add(np.arange(start, start + length))
            writer.end_sequence()
            writer.end_document()
    return IndexedDataset.open(prefix)


def sample(dataset: Dataset, k: int) -> list[int]:
    """The real tokens of sample k."""
    samples = read_samples(dataset, np.array([k]))
    return [int(token) for token in samples.tokens[0, : samples.num_real[0]]]
