"""Samples of an indexed data set in Megatron's order."""

import numpy as np
from numpy.typing import NDArray

from firstlight.data.gather import Laid
from firstlight.data.gpt_order import GptOrder
from firstlight.data.indexed import IndexedDataset
from firstlight.data.samples import Samples, require_numbers


class GptDataset:
    """The samples of one order over one indexed data set."""

    def __init__(self, indexed: IndexedDataset, order: GptOrder, sequence_length: int) -> None:
        self.indexed = indexed
        self.order = order
        self.sequence_length = sequence_length
        self._laid = Laid(indexed=indexed, order=order.document_index)

    def __len__(self) -> int:
        return len(self.order.shuffle_index)

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """Write sample `numbers[i]` into row `rows[i]`. Raises IndexError.

        All tokens are real, unless the order was built without the extra token: then the last one is 0.
        """
        require_numbers(numbers, len(self), self.indexed.prefix)
        starts = self.order.sample_index[self.order.shuffle_index[numbers]].astype(np.int64)
        self._laid.gather(starts, out, rows, self.sequence_length + self.order.extra_token)
