"""Rows of tokens, and what fills them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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


def read_samples(dataset: Dataset, numbers: NDArray[np.int64], sequence_length: int | None = None) -> Samples:
    """The samples of these numbers, one a row; of the data set's sequence length, or of that which is given."""
    out = Samples.empty(len(numbers), sequence_length or dataset.sequence_length)
    dataset.read(numbers, out, np.arange(len(numbers)))
    return out


def require_numbers(numbers: NDArray[np.int64], size: int, where: object) -> None:
    """Raise IndexError unless all of `numbers` are from 0 to `size` - 1."""
    wrong = numbers[(numbers < 0) | (numbers >= size)]
    if len(wrong):
        raise IndexError(f"sample {int(wrong[0])} is not one of the {size} of {where}")


@runtime_checkable
class Positioned(Protocol):
    """A data set with something to remember about how far it was read."""

    def position(self, number: int) -> dict[str, Any]:
        """What to go on from at sample `number`, one just read or to be read next; plain values."""

    def go_to(self, number: int, position: Mapping[str, Any]) -> None:
        """Go on at sample `number` from what `position` gave for it. Raises InputError when it does not fit."""


def position_of(dataset: Dataset, number: int) -> dict[str, Any]:
    """What to remember for going on at sample `number`; nothing where the number says it all."""
    return dataset.position(number) if isinstance(dataset, Positioned) else {}


def send_to(dataset: Dataset, number: int, position: Mapping[str, Any]) -> None:
    """Go on at sample `number` from what `position_of` gave."""
    if isinstance(dataset, Positioned) and position:
        dataset.go_to(number, position)
