"""Samples of an indexed data set in Megatron's order."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from firstlight.data.gpt_order import GptOrder
from firstlight.data.indexed import IndexedDataset


class Dataset(Protocol):
    """Samples of `sequence_length` tokens and the one after them, by number."""

    sequence_length: int

    def __len__(self) -> int: ...

    def fill(self, k: int, out: NDArray[np.int64]) -> int:
        """Write sample k into `out`, int64 [sequence_length + 1]; returns how many of its tokens are real.

        Tokens after the real ones are 0 and must be left out of the loss.
        """


class GptDataset:
    """The samples of one order over one indexed data set."""

    def __init__(self, indexed: IndexedDataset, order: GptOrder, sequence_length: int) -> None:
        self.indexed = indexed
        self.order = order
        self.sequence_length = sequence_length

    def __len__(self) -> int:
        return len(self.order.shuffle_index)

    def fill(self, k: int, out: NDArray[np.int64]) -> int:
        """Write sample k into `out`, int64 [sequence_length + 1]; returns how many of its tokens are real.

        All are, unless the order was built without the extra token: then the last one is 0. Raises IndexError.
        """
        if not 0 <= k < len(self):
            raise IndexError(f"sample {k} is not one of the {len(self)} of {self.indexed.prefix}")
        position, offset = self.order.sample_index[int(self.order.shuffle_index[k])]
        num_wanted = self.sequence_length + self.order.extra_token
        start = (int(position), int(offset))
        num_real = copy_tokens(self.indexed, self.order.document_index, start, out[:num_wanted])
        out[num_real:] = 0
        return num_real

    def tokens(self, k: int) -> NDArray[np.int64]:
        """Sample k, int64 [sequence_length + 1], as `fill` writes it."""
        out = np.empty(self.sequence_length + 1, np.int64)
        self.fill(k, out)
        return out


def copy_tokens(
    indexed: IndexedDataset,
    sequences: Sequence[int] | NDArray[np.integer],
    start: tuple[int, int],
    out: NDArray[np.int64],
) -> int:
    """Fill `out`, int64 [n], with the tokens of `sequences` laid end to end, from (position, token offset) on.

    Returns how many were written: fewer than n when the sequences end before.
    """
    position, offset = start
    num_written = 0
    while num_written < len(out) and position < len(sequences):
        sequence = int(sequences[position])
        length = min(int(indexed.lengths[sequence]) - offset, len(out) - num_written)
        out[num_written : num_written + length] = indexed.tokens(sequence, offset, length)
        num_written += length
        position, offset = position + 1, 0
    return num_written
