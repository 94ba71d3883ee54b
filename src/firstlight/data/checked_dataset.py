"""A data set whose token ids are checked against the model's vocabulary as they are read."""

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.gpt_dataset import Dataset


class CheckedDataset:
    """The samples of `dataset`, called `name` in messages, each id of which must be below `vocab_size`.

    The check is a pass over tokens that are read anyway; without it a data set of another tokenizer would fail deep
    in the model, or train on the wrong embeddings.
    """

    def __init__(self, dataset: Dataset, *, name: str, vocab_size: int) -> None:
        self.sequence_length = dataset.sequence_length
        self._dataset = dataset
        self._name = name
        self._vocab_size = vocab_size

    def __len__(self) -> int:
        return len(self._dataset)

    def fill(self, k: int, out: NDArray[np.int64]) -> int:
        """As the data set's own `fill`. Raises InputError for an id outside of the vocabulary."""
        num_real = self._dataset.fill(k, out)
        smallest, largest = int(out.min()), int(out.max())
        if smallest < 0 or largest >= self._vocab_size:
            found = smallest if smallest < 0 else largest
            raise InputError(
                f"sample {k} of {self._name} holds the token id {found}, but model.vocab_size is {self._vocab_size}; "
                "was it prepared with another tokenizer?"
            )
        return num_real
