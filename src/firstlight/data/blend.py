"""Mixing several sources by weight, in the order of Megatron-LM's BlendedDataset, to the bit.

Sample t comes from the source whose share lags the most (core/datasets/helpers.cpp, build_blending_indices). Megatron
stores this choice for every sample; here only the counts at every 65,536th sample are kept, and a block is replayed
when it is read. So memory is small, and a fresh run starts at once.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data import native
from firstlight.data.samples import require_numbers

SURPLUS = 0.005
"""Megatron asks each source for this share of samples more than its weight needs."""
_BLOCK = 1 << 16
_MOST_SOURCES = 32767  # Megatron's and our source numbers are int16
_UNLIMITED = np.iinfo(np.int64).max


def normalise(weights: Sequence[float]) -> NDArray[np.float64]:
    """Weights that add up to 1, float64 [D], with the last bits that Megatron's have."""
    values = np.array(weights, np.float64)
    return np.asarray(values / np.sum(values))


def target_sizes(weights: NDArray[np.float64], num_samples: int) -> list[int]:
    """How many of `num_samples` samples each source gives at most, rounded up."""
    return [math.ceil(num_samples * weight) for weight in weights.tolist()]


def sizes_to_build(weights: NDArray[np.float64], num_samples: int, surplus: float = SURPLUS) -> list[int]:
    """How many samples Megatron asks of each source for a blend of `num_samples`; this decides the source's epochs."""
    return [math.ceil(target * (1 + surplus)) for target in target_sizes(weights, num_samples)]


class BlendOrder:
    """Which source sample t of a blend comes from, and which one of that source's samples it is."""

    def __init__(self, weights: NDArray[np.float64], size: int, limits: Sequence[int] | None = None) -> None:
        """A blend of `size` samples by `weights`, float64 [D]; no source gives more samples than its limit.

        With limits, a source that is used up is passed over, as in build_exhaustive_blending_indices.
        """
        if not 0 < len(weights) <= _MOST_SOURCES:
            raise InputError(f"a blend of {len(weights)} sources; give 1 to {_MOST_SOURCES}")
        if limits is not None and sum(limits) < size:
            raise InputError(f"a blend of {size} samples, but its sources hold {sum(limits)} together")
        self.weights = weights
        self.size = size
        self._limits = np.full(len(weights), _UNLIMITED) if limits is None else np.array(limits, np.int64)
        self._counts = {0: np.zeros(len(weights), np.int64)}
        """Samples taken from each source before a block, by block: those that were read up to, or told of."""
        self._block = -1
        self._sources, self._numbers = np.empty(0, np.int16), np.empty(0, np.int64)

    def locate(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """(source, number among that source's samples) of each of `places` [n]. Raises IndexError."""
        require_numbers(places, self.size, "the blend")
        sources, numbers = np.empty(len(places), np.int16), np.empty(len(places), np.int64)
        blocks, within = np.divmod(places, _BLOCK)
        for block in np.unique(blocks).tolist():
            self._read(block)
            here = blocks == block
            sources[here], numbers[here] = self._sources[within[here]], self._numbers[within[here]]
        return sources, numbers

    def counts_before(self, place: int) -> NDArray[np.int64]:
        """How many samples each source has given before `place`, int64 [D]; `place` may be the size."""
        block, within = divmod(place, _BLOCK)
        counts = self._counts_before(block)
        if within:
            self._read(block)
            counts = counts + np.bincount(self._sources[:within], minlength=len(counts))
        return counts

    def start_of_block(self, place: int) -> tuple[int, NDArray[np.int64]]:
        """The first place of the block that holds `place`, and the counts before it: enough to go on from there."""
        block = place // _BLOCK
        return block * _BLOCK, self._counts_before(block)

    def remember(self, first: int, counts: NDArray[np.int64]) -> None:
        """Take the counts before a block that `start_of_block` gave, so that nothing before it is replayed."""
        if first % _BLOCK or len(counts) != len(self.weights) or int(counts.sum()) != first:
            raise InputError(f"the saved counts {counts.tolist()} of a blend are not those before its sample {first}")
        self._counts[first // _BLOCK] = counts

    def most_samples(self) -> list[int]:
        """How many samples each source gives at most: its share rounded up, or its limit.

        The one that lags most is never ahead of its share, so none gets more than that, rounding errors aside.
        """
        targets = target_sizes(self.weights, self.size)
        return [min(target, limit) for target, limit in zip(targets, self._limits.tolist(), strict=True)]

    def arrays(self) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Megatron's dataset_index int16 [size] and dataset_sample_index int64 [size]."""
        blocks = [self._replay(block) for block in range(-(-self.size // _BLOCK))]
        sources = np.concatenate([one for one, _ in blocks] or [np.empty(0, np.int16)])
        numbers = np.concatenate([one for _, one in blocks] or [np.empty(0, np.int64)])
        return sources, numbers

    def _counts_before(self, block: int) -> NDArray[np.int64]:
        for before in range(max(known for known in self._counts if known <= block), block):
            self._replay(before)
        return self._counts[block]

    def _read(self, block: int) -> None:
        if block != self._block:
            self._counts_before(block)
            self._sources, self._numbers = self._replay(block)
            self._block = block

    def _replay(self, block: int) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """The choices of a block whose counts are known; notes the counts of the block after it."""
        first = block * _BLOCK
        counts = self._counts[block].copy()
        sources = np.empty(min(_BLOCK, self.size - first), np.int16)
        numbers = np.empty(len(sources), np.int64)
        fill = native.COMPILED.blend if native.COMPILED else fill_block
        fill(self.weights, self._limits, counts, first, sources, numbers)
        if len(sources) == _BLOCK:
            self._counts[block + 1] = counts
        return sources, numbers


def fill_block(
    weights: NDArray[np.float64],
    limits: NDArray[np.int64],
    counts: NDArray[np.int64],
    first: int,
    sources: NDArray[np.int16],
    numbers: NDArray[np.int64],
) -> None:
    """Fill `sources` and `numbers` [n] from sample `first` on, raising `counts` [D]; the compiled one's equal.

    The first of equals is chosen, and product and difference are rounded separately, as without fused multiply-add.
    """
    taken = counts.astype(np.float64)
    may_run_out = bool((limits - counts < len(sources)).any())
    for row in range(len(sources)):
        lag = weights * float(max(first + row, 1)) - taken
        if may_run_out:
            lag[counts >= limits] = -np.inf
        chosen = int(np.argmax(lag))
        sources[row], numbers[row] = chosen, counts[chosen]
        counts[chosen] += 1
        taken[chosen] += 1.0
