"""Ids outside of the model's vocabulary are refused with their place."""

import numpy as np
import pytest
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.checked_dataset import CheckedDataset


class Rows:
    """Samples given as rows of ids."""

    sequence_length = 3

    def __init__(self, *rows: list[int]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def fill(self, k: int, out: NDArray[np.int64]) -> int:
        out[:] = self._rows[k]
        return len(out)


@pytest.mark.parametrize(("row", "found"), [([0, 1, 10, 2], 10), ([0, -1, 2, 3], -1)])
def test_an_id_outside_of_the_vocabulary_is_refused(row: list[int], found: int):
    dataset = CheckedDataset(Rows([0, 1, 2, 9], row), name="wiki", vocab_size=10)
    out = np.empty(4, np.int64)
    assert dataset.fill(0, out) == 4
    assert out.tolist() == [0, 1, 2, 9]
    with pytest.raises(InputError, match=f"sample 1 of wiki holds the token id {found}, but model.vocab_size is 10"):
        dataset.fill(1, out)
