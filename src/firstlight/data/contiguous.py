"""Tokens of an indexed data set as one run, opened in the same short time whatever its size; samples cut from it."""

from bisect import bisect_left
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.cut import Share
from firstlight.data.indexed import HEADER, bin_path, idx_path, map_bytes, read_header
from firstlight.data.samples import Samples, require_numbers
from firstlight.data.split import parse_split, split_bounds

WHOLE = Share()
_NUM_PROBES = 1024
_LARGEST_INT32 = 2**31 - 1


class ContiguousTokens:
    """The tokens [n] of the first share of a split, a view of the .bin file, in the order in which they lie there.

    Only the header, both ends and about a thousand places in between are looked at. No token outside of the .bin
    file can be read all the same: the run is cut from the file, not put together by pointers.
    """

    def __init__(self, prefix: Path, values: NDArray[Any], pointers: NDArray[np.int64]) -> None:
        """`pointers`: where the sequences begin, int64 [S] in bytes of the file; values[0] is at the first of them."""
        self.prefix = prefix
        self.values = values
        self._pointers = pointers

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def open(cls, prefix: Path, split: str, share: Share = WHOLE, *, at_least: int = 0) -> "ContiguousTokens":
        """Map the data set at `prefix`, or a share of its tokens, by whole sequences and `at_least` so many.

        Raises InputError when a file is missing or its sequences are not in order.
        """
        index = map_bytes(idx_path(prefix))
        dtype, num_sequences, _ = read_header(idx_path(prefix), index)
        after_lengths = HEADER.size + 4 * num_sequences
        lengths = index[HEADER.size : after_lengths].view("<i4")
        pointers = index[after_lengths : after_lengths + 8 * num_sequences].view("<i8")
        content = map_bytes(bin_path(prefix))
        sequences = split_bounds(parse_split(split), num_sequences)[0] or range(0)
        if not len(sequences):
            return cls(prefix, np.empty(0, dtype), pointers[:0])
        last = sequences.stop - 1
        end = int(pointers[last]) + int(lengths[last]) * dtype.itemsize
        sequences = share.of(sequences, pointers, end, at_least=at_least * dtype.itemsize)
        _probe(prefix, lengths[: sequences.stop], pointers[: sequences.stop], dtype.itemsize)
        last = sequences.stop - 1
        begin = int(pointers[sequences.start])
        end = int(pointers[last]) + int(lengths[last]) * dtype.itemsize
        if not 0 <= begin <= end <= len(content) or (end - begin) % dtype.itemsize:
            _refuse(prefix, f"its sequences lie at bytes {begin} to {end} of a .bin file of {len(content)} bytes")
        return cls(prefix, content[begin:end].view(dtype), pointers[sequences.start : sequences.stop])

    def begins(self, first: int, length: int) -> NDArray[np.int64]:
        """The places within tokens [first, first + length) where a sequence begins."""
        itemsize = self.values.dtype.itemsize
        start = int(self._pointers[0]) + first * itemsize
        # Not numpy's search: the array lies unaligned in the file, and numpy would copy all of it first.
        low = bisect_left(self._pointers, start)
        high = bisect_left(self._pointers, start + length * itemsize, low)
        found: NDArray[np.int64] = (self._pointers[low:high] - start) // itemsize
        return found


class ContiguousDataset:
    """Sample j is tokens [j * L, j * L + L] of a run, the last of them being only a label."""

    def __init__(self, tokens: ContiguousTokens, sequence_length: int) -> None:
        """There must be the tokens of one sample."""
        self.sequence_length = sequence_length
        self._tokens = tokens

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self.sequence_length

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """Write sample `numbers[i]` into row `rows[i]`; all tokens are real. Raises IndexError."""
        require_numbers(numbers, len(self), self._tokens.prefix)
        width = self.sequence_length + 1
        for number, row in zip(numbers.tolist(), rows.tolist(), strict=True):
            first = number * self.sequence_length
            values = self._tokens.values[first : first + width]
            if values.dtype.itemsize > out.tokens.itemsize and np.abs(values).max() > _LARGEST_INT32:
                raise InputError(f"{self._tokens.prefix}: sample {number} holds an id that does not fit 32 bits")
            out.tokens[row] = values
            out.begins[row] = False
            out.begins[row, self._tokens.begins(first, width)] = True
            out.begins[row, 0] = True
        out.num_real[rows] = width


def _probe(prefix: Path, lengths: NDArray[Any], pointers: NDArray[Any], itemsize: int) -> None:
    """Each sequence begins where the one before it ends: looked at evenly spaced places, both ends among them."""
    if int(pointers[0]) != 0:
        _refuse(prefix, f"its first sequence begins at byte {int(pointers[0])}, not 0")
    if len(pointers) < 2:
        return
    num_places = min(_NUM_PROBES, len(pointers) - 1)
    places = np.arange(num_places) * (len(pointers) - 2) // max(1, num_places - 1)
    ends = pointers[places] + lengths[places].astype(np.int64) * itemsize
    wrong = np.flatnonzero((ends != pointers[places + 1]) | (lengths[places] < 0))
    if len(wrong):
        which = int(places[wrong[0]])
        _refuse(prefix, f"sequence {which + 1} begins at byte {int(pointers[which + 1])}, not {int(ends[wrong[0]])}")


def _refuse(prefix: Path, fault: str) -> NoReturn:
    raise InputError(
        f"{prefix}: {fault}; data.train.order = permuted needs sequences that lie one after the other: "
        "prepare the data set again, or use order: megatron"
    )
