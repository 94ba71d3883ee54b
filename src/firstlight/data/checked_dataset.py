"""A data set whose token ids are checked against the model's vocabulary as they are read."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.samples import Dataset, Samples, position_of, send_to


class CheckedDataset:
    """The samples of `dataset`, called `name` in messages, each id of which must be below `vocab_size`.

    The check is a pass over tokens that are read anyway; without it a data set of another tokenizer would fail deep
    in the model, or train on the wrong embeddings.
    """

    def __init__(self, dataset: Dataset, *, name: str, vocab_size: int) -> None:
        self.sequence_length = dataset.sequence_length
        self.dataset = dataset
        self._name = name
        self._vocab_size = vocab_size

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """As the data set's own `read`. Raises InputError for an id outside of the vocabulary."""
        self.dataset.read(numbers, out, rows)
        tokens = out.tokens if len(rows) == len(out.tokens) else out.tokens[rows]
        if not len(rows):
            return
        smallest, largest = int(tokens.min()), int(tokens.max())
        if smallest < 0 or largest >= self._vocab_size:
            found = smallest if smallest < 0 else largest
            number = numbers[int(np.flatnonzero((out.tokens[rows] == found).any(axis=1))[0])]
            raise InputError(
                f"sample {number} of {self._name} holds the token id {found}, but model.vocab_size is "
                f"{self._vocab_size}; was it prepared with another tokenizer?"
            )

    def position(self, number: int) -> dict[str, Any]:
        """As the data set's own."""
        return position_of(self.dataset, number)

    def go_to(self, number: int, position: Mapping[str, Any]) -> None:
        """As the data set's own."""
        send_to(self.dataset, number, position)
