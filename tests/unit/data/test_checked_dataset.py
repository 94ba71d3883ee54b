"""Ids outside of the model's vocabulary are refused with their place."""

import numpy as np
import pytest
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.checked_dataset import CheckedDataset
from firstlight.data.samples import Samples, read_samples
from tests.unit.data.numbered import sample


class Rows:
    """Samples given as rows of ids."""

    sequence_length = 3

    def __init__(self, *rows: list[int]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        out.tokens[rows] = np.array(self._rows)[numbers]
        out.num_real[rows] = 4


@pytest.mark.parametrize(("row", "found"), [([0, 1, 10, 2], 10), ([0, -1, 2, 3], -1)])
def test_an_id_outside_of_the_vocabulary_is_refused(row: list[int], found: int):
    dataset = CheckedDataset(Rows([0, 1, 2, 9], row), name="wiki", vocab_size=10)
    assert sample(dataset, 0) == [0, 1, 2, 9]
    with pytest.raises(InputError, match=f"sample 1 of wiki holds the token id {found}, but model.vocab_size is 10"):
        read_samples(dataset, np.array([0, 1]))
