"""A data set read again and again, each epoch in an order of its own: no index, any place found at once."""

import numpy as np
from numpy.typing import NDArray

from firstlight.data.permutation import Permutation
from firstlight.data.samples import Dataset, Samples, require_numbers


class Epochs:
    """At least `num_samples` samples of `dataset`, in whole epochs: each has every sample once.

    Position i of epoch e reads sample p(i), p being the permutation keyed by seed, epoch and source; without a seed
    every epoch reads them as they come. The order does not depend on how long a run is.
    """

    def __init__(self, dataset: Dataset, *, num_samples: int, seed: int | None, source: int = 0) -> None:
        """`source` is the number of this data set among those of the run. `dataset` must not be empty."""
        self.sequence_length = dataset.sequence_length
        self.dataset = dataset
        self._num_epochs = -(-num_samples // len(dataset))
        self._seed = seed
        self._source = source
        self._permutations: dict[int, Permutation] = {}

    def __len__(self) -> int:
        return self._num_epochs * len(self.dataset)

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """Write sample `numbers[i]` into row `rows[i]`, as the data set does. Raises IndexError."""
        require_numbers(numbers, len(self), "the epochs of a data set")
        epochs, places = np.divmod(numbers, len(self.dataset))
        for epoch in np.unique(epochs).tolist() if self._seed is not None else ():
            here = epochs == epoch
            places[here] = self._permutation(epoch).many(places[here])
        self.dataset.read(places, out, rows)

    def _permutation(self, epoch: int) -> Permutation:
        if epoch not in self._permutations:
            assert self._seed is not None
            made = Permutation(len(self.dataset), seed=self._seed, epoch=epoch, source=self._source)
            self._permutations = {epoch: made}  # the last one is enough: epochs come one after the other
        return self._permutations[epoch]
