"""Samples in the order in which they lie in the file."""

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.gather import Laid
from firstlight.data.indexed import IndexedDataset
from firstlight.data.samples import Samples, require_numbers


class SequentialDataset:
    """Sample j is tokens [j * L, j * L + L] of sequences laid end to end; a rest shorter than L is left out."""

    def __init__(self, indexed: IndexedDataset, sequence_length: int, sequences: range | None = None) -> None:
        """`sequences` are those to read, all by default. Raises InputError when there is not even one sample."""
        self.indexed = indexed
        self.sequence_length = sequence_length
        sequences = range(len(indexed)) if sequences is None else sequences
        self._laid = Laid(indexed=indexed, order=sequences)
        self._ends = np.cumsum(indexed.lengths[sequences.start : sequences.stop], dtype=np.int64)
        self.num_tokens = int(self._ends[-1]) if len(self._ends) else 0
        require_one_sample(self.num_tokens, sequence_length, f"{indexed.prefix}")

    def __len__(self) -> int:
        return (self.num_tokens - 1) // self.sequence_length

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """Write sample `numbers[i]` into row `rows[i]`; all tokens are real. Raises IndexError."""
        require_numbers(numbers, len(self), self.indexed.prefix)
        first = numbers * self.sequence_length
        positions = np.searchsorted(self._ends, first, side="right")
        before = np.where(positions > 0, self._ends[positions - 1], 0)
        self._laid.gather(np.stack((positions, first - before), axis=1), out, rows)


def require_one_sample(num_tokens: int, sequence_length: int, where: str) -> None:
    """Raise InputError when `num_tokens` tokens are fewer than one sample needs."""
    needed = sequence_length + 1
    if num_tokens < needed:
        raise InputError(
            f"{where} has {num_tokens} tokens, but one sample of sequence_length {sequence_length} needs {needed}; "
            "prepare more text or set a smaller data.train.sequence_length"
        )
