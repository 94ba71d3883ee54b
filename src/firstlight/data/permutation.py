"""A permutation of any size that follows from a key and needs no memory.

It is a Feistel network over the smallest even number of bits that holds the size; results that are too large go through
it again (cycle walking: Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
"""

import hashlib
import struct

import numpy as np
from numpy.typing import NDArray

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

    def many(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each of `places` goes, int64 [n]. Raises IndexError as for one."""
        if len(places) and not (places.min() >= 0 and places.max() < self.size):
            raise IndexError(f"not all of the places are of the {self.size} of the permutation")
        values = self._networks(places.astype(np.uint64))
        while True:
            outside = np.flatnonzero(values >= self.size)
            if not len(outside):
                return values.astype(np.int64)
            values[outside] = self._networks(values[outside])

    def _networks(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        bits, mask = np.uint64(self._half_bits), np.uint64(self._mask)
        left, right = values >> bits, values & mask
        for key in self._keys:
            left, right = right, left ^ (_all_mixed(right ^ np.uint64(key)) & mask)
        return (left << bits) | right

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


def _all_mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`_mixed` of each value; products wrap around as they shall."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
