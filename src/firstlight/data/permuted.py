"""`order: permuted`: no index at all; samples are cut from the run of tokens and shuffled by a keyed permutation.

Sample j of an epoch is tokens [j * L, j * L + L] of the run, the last of them being only a label. Position i of epoch e
reads sample p(i), p being a Feistel network over the smallest even number of bits that holds the number of samples;
results that are too large go through it again (cycle walking: Black and Rogaway, Ciphers with Arbitrary Finite
Domains, 2002). So any place of any epoch is found at once, and the order does not depend on how long a run is.
"""

import hashlib
import struct

import numpy as np
from numpy.typing import NDArray

from firstlight.data.contiguous import ContiguousTokens

_ROUNDS = 6
_MASK64 = (1 << 64) - 1


class Permutation:
    """A permutation of 0, 1, ..., size - 1 that follows from a key."""

    def __init__(self, size: int, *, seed: int, epoch: int, source: int) -> None:
        self.size = size
        self._half_bits = max(1, -(-max(1, size - 1).bit_length() // 2))
        self._mask = (1 << self._half_bits) - 1
        key = f"firstlight.permuted.1/{seed}/{epoch}/{source}".encode()
        self._keys = struct.unpack(f"<{_ROUNDS}Q", hashlib.sha512(key).digest()[: 8 * _ROUNDS])

    def __call__(self, place: int) -> int:
        """Where `place` goes. Raises IndexError outside of the permutation: from there the walk might never end."""
        if not 0 <= place < self.size:
            raise IndexError(f"{place} is not one of the {self.size} places of the permutation")
        value = self._network(place)
        while value >= self.size:
            value = self._network(value)
        return value

    def _network(self, value: int) -> int:
        left, right = value >> self._half_bits, value & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mixed(value: int) -> int:
    """64 well mixed bits: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


class PermutedDataset:
    """At least `num_samples` samples, in whole epochs; each epoch has every sample once, in an order of its own."""

    def __init__(
        self, tokens: ContiguousTokens, *, sequence_length: int, num_samples: int, seed: int, source: int
    ) -> None:
        """`source` is the number of this data set among those of the run: each has an order of its own.

        There must be the tokens of one sample.
        """
        self.sequence_length = sequence_length
        self.samples_per_epoch = (len(tokens) - 1) // sequence_length
        self._tokens = tokens
        self._num_epochs = -(-num_samples // self.samples_per_epoch)
        self._seed = seed
        self._source = source
        self._epoch = 0
        self._permutation = self._permutation_of(0)

    def __len__(self) -> int:
        return self._num_epochs * self.samples_per_epoch

    def fill(self, k: int, out: NDArray[np.int64]) -> int:
        """Write sample k into `out`, int64 [sequence_length + 1]; returns how many tokens are real: all of them."""
        if not 0 <= k < len(self):
            raise IndexError(f"sample {k} is not one of the {len(self)} of {self._tokens.prefix}")
        epoch, place = divmod(k, self.samples_per_epoch)
        if epoch != self._epoch:
            self._permutation, self._epoch = self._permutation_of(epoch), epoch
        first = self._permutation(place) * self.sequence_length
        out[:] = self._tokens.values[first : first + self.sequence_length + 1]
        return len(out)

    def _permutation_of(self, epoch: int) -> Permutation:
        return Permutation(self.samples_per_epoch, seed=self._seed, epoch=epoch, source=self._source)
