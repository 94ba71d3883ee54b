"""Data sets of different sequence lengths, one after the other; and one that goes on where it was left."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.samples import Dataset, Samples, position_of, require_numbers, send_to


@runtime_checkable
class Phased(Protocol):
    """A data set whose samples are not all of one length."""

    def length_at(self, number: int) -> int:
        """The sequence length of sample `number`."""

    def cut_at(self, number: int) -> range:
        """The samples of the cut that `number` is in: no batch goes across its end."""


class PhasedDataset:
    """The first `sizes[k]` samples of data set k, k = 0, 1 ..., in one row of numbers."""

    def __init__(self, datasets: Sequence[Dataset], sizes: Sequence[int]) -> None:
        self.sequence_length = datasets[0].sequence_length
        self.datasets = tuple(datasets)
        self._ends = np.cumsum(sizes)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def length_at(self, number: int) -> int:
        """The sequence length of sample `number`."""
        return self.datasets[self._which(number)].sequence_length

    def cut_at(self, number: int) -> range:
        """The samples that the data set of `number` gives."""
        which = self._which(number)
        return range(self._first(which), int(self._ends[which]))

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """As their data set does. All of one length. Raises IndexError."""
        require_numbers(numbers, len(self), "the phases")
        which = np.searchsorted(self._ends, numbers, side="right")
        for one in np.unique(which).tolist():
            here = which == one
            self.datasets[one].read(numbers[here] - self._first(one), out, rows[here])

    def position(self, number: int) -> dict[str, Any]:
        """What to go on from at sample `number`."""
        which = self._which(number)
        return {"cut": which, "within": position_of(self.datasets[which], number - self._first(which))}

    def go_to(self, number: int, position: Mapping[str, Any]) -> None:
        """Take what `position` gave for sample `number`. Raises InputError when it is of other phases."""
        which = self._which(number)
        if position["cut"] != which:
            raise InputError(f"sample {number} is in cut {which} of the run's phases, the saved one {position['cut']}")
        send_to(self.datasets[which], number - self._first(which), position["within"])

    def _which(self, number: int) -> int:
        return min(int(np.searchsorted(self._ends, number, side="right")), len(self.datasets) - 1)

    def _first(self, which: int) -> int:
        return int(self._ends[which - 1]) if which else 0


class ContinuedDataset:
    """`dataset` without its first `skipped` samples."""

    def __init__(self, dataset: Dataset, skipped: int) -> None:
        self.sequence_length = dataset.sequence_length
        self._dataset = dataset
        self._skipped = skipped

    def __len__(self) -> int:
        return len(self._dataset) - self._skipped

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """As the data set's own. Raises IndexError."""
        self._dataset.read(numbers + self._skipped, out, rows)

    def position(self, number: int) -> dict[str, Any]:
        """As the data set's own."""
        return position_of(self._dataset, number + self._skipped)

    def go_to(self, number: int, position: Mapping[str, Any]) -> None:
        """As the data set's own."""
        send_to(self._dataset, number + self._skipped, position)
