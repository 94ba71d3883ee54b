"""Rows of tokens, and what fills them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Rows of `sequence_length` tokens and the one after them, n of them.

    tokens int32 [n, L + 1]; num_real int32 [n]: how many of a row's tokens are real, the others are 0 and must be left
    out of the loss; begins bool [n, L + 1]: where a document begins, the first place of a row always among them.
    """

    tokens: NDArray[np.int32]
    num_real: NDArray[np.int32]
    begins: NDArray[np.bool_]

    @classmethod
    def empty(cls, num_rows: int, sequence_length: int) -> "Samples":
        """Room for rows that are not filled yet."""
        return cls(
            tokens=np.zeros((num_rows, sequence_length + 1), np.int32),
            num_real=np.zeros(num_rows, np.int32),
            begins=np.zeros((num_rows, sequence_length + 1), np.bool_),
        )


class Dataset(Protocol):
    """Samples by number, in the order of training."""

    sequence_length: int

    def __len__(self) -> int: ...

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """Write sample `numbers[i]` into row `rows[i]` of `out`, for each i; all three fields of the row are set.

        Raises IndexError for a number that is not one of the data set's samples.
        """


def read_samples(dataset: Dataset, numbers: NDArray[np.int64]) -> Samples:
    """The samples of these numbers, one a row."""
    out = Samples.empty(len(numbers), dataset.sequence_length)
    dataset.read(numbers, out, np.arange(len(numbers)))
    return out
