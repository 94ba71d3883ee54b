"""Data that is only evaluated: the whole of it, from its start, in order."""

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.gpt_dataset import copy_tokens
from firstlight.data.indexed import IndexedDataset


class HeldOutDataset:
    """Sample j is tokens [j * L, j * L + L] of all sequences laid end to end; a rest shorter than L is left out.

    Raises InputError when there is not even one sample.
    """

    def __init__(self, indexed: IndexedDataset, sequence_length: int) -> None:
        self.indexed = indexed
        self.sequence_length = sequence_length
        self._ends = np.cumsum(indexed.lengths, dtype=np.int64)
        require_one_sample(indexed.num_tokens, sequence_length, f"{indexed.prefix}")

    def __len__(self) -> int:
        return (self.indexed.num_tokens - 1) // self.sequence_length

    def fill(self, k: int, out: NDArray[np.int64]) -> int:
        """Write sample k into `out`, int64 [sequence_length + 1]; returns the number of real tokens: all of them."""
        if not 0 <= k < len(self):
            raise IndexError(f"sample {k} is not one of the {len(self)} of {self.indexed.prefix}")
        first = k * self.sequence_length
        position = int(np.searchsorted(self._ends, first, side="right"))
        offset = first - int(self._ends[position]) + int(self.indexed.lengths[position])
        return copy_tokens(self.indexed, range(len(self.indexed)), (position, offset), out)

    def tokens(self, k: int) -> NDArray[np.int64]:
        """Sample k, int64 [sequence_length + 1]."""
        out = np.empty(self.sequence_length + 1, np.int64)
        self.fill(k, out)
        return out


def require_one_sample(num_tokens: int, sequence_length: int, where: str) -> None:
    """Raise InputError when `num_tokens` tokens are fewer than one sample needs."""
    needed = sequence_length + 1
    if num_tokens < needed:
        raise InputError(
            f"{where} has {num_tokens} tokens, but one sample of sequence_length {sequence_length} needs {needed}; "
            "prepare more text or set a smaller data.train.sequence_length"
        )
