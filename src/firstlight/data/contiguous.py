"""Tokens of an indexed data set as one run, opened in the same short time whatever its size."""

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.indexed import HEADER, bin_path, idx_path, map_bytes, read_header
from firstlight.data.split import parse_split, split_bounds

_NUM_PROBES = 1024


class ContiguousTokens:
    """The tokens [n] of the first share of a split, a view of the .bin file, in the order in which they lie there.

    Only the header, both ends and about a thousand places in between are looked at. No token outside of the .bin
    file can be read all the same: the run is cut from the file, not put together by pointers.
    """

    def __init__(self, prefix: Path, values: NDArray[Any]) -> None:
        self.prefix = prefix
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def open(cls, prefix: Path, split: str) -> "ContiguousTokens":
        """Map the data set at `prefix`. Raises InputError when a file is missing or its sequences are not in order."""
        index = map_bytes(idx_path(prefix))
        dtype, num_sequences, _ = read_header(idx_path(prefix), index)
        after_lengths = HEADER.size + 4 * num_sequences
        lengths = index[HEADER.size : after_lengths].view("<i4")
        pointers = index[after_lengths : after_lengths + 8 * num_sequences].view("<i8")
        content = map_bytes(bin_path(prefix))
        sequences = split_bounds(parse_split(split), num_sequences)[0] or range(0)
        if not len(sequences):
            return cls(prefix, np.empty(0, dtype))
        _probe(prefix, lengths[: sequences.stop], pointers[: sequences.stop], dtype.itemsize)
        last = sequences.stop - 1
        begin = int(pointers[sequences.start])
        end = int(pointers[last]) + int(lengths[last]) * dtype.itemsize
        if not 0 <= begin <= end <= len(content) or (end - begin) % dtype.itemsize:
            _refuse(prefix, f"its sequences lie at bytes {begin} to {end} of a .bin file of {len(content)} bytes")
        return cls(prefix, content[begin:end].view(dtype))


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
