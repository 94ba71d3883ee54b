"""Megatron's `cyclic` sampler: each epoch in an order of torch.randperm keyed by the epoch's number alone.

For runs that are moved here in the middle. A new run should take `order: permuted`: there the order follows from the
seed, and does not depend on the number of ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class CyclicSampler:
    """Of `num_samples` samples, the micro-batches of rank `data_rank` of `data_size`.

    With `is_sharded` every rank reads a part of its own, as Megatron does unless told otherwise; else the ranks take
    turns along one permutation.
    """

    num_samples: int
    micro_batch_size: int
    data_rank: int
    data_size: int
    is_sharded: bool = True

    def epoch(self, consumed_samples: int) -> Iterator[NDArray[np.int64]]:
        """The micro-batches that are left of the epoch that `consumed_samples`, of all ranks, lies in.

        What does not fill a micro-batch is left out.
        """
        size, ranks = self.micro_batch_size, self.data_size
        number, within = divmod(consumed_samples, self.num_samples // (size * ranks) * size * ranks)
        if self.is_sharded:
            share = self.num_samples // (size * ranks) * size
            order = self.data_rank * share + torch_permutation(share, number)[within // ranks :]
        else:
            order = torch_permutation(self.num_samples // size * size, number)[within:][self.data_rank :: ranks]
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


def torch_permutation(size: int, seed: int) -> NDArray[np.int64]:
    """What torch.randperm(size) gives on CPU with a generator of this seed, int64 [size]."""
    # Both draw 32 bits at a time from MT19937, seeded alike.
    draws = np.frombuffer(np.random.RandomState(seed).bytes(4 * size), "<u4").tolist()
    values = list(range(size))
    for place in range(size - 1):
        other = place + draws[place] % (size - place)
        values[place], values[other] = values[other], values[place]
    return np.array(values, np.int64)
