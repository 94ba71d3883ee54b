"""`order: packed`: whole documents in rows, as many as fit, for data whose documents should not be cut.

Best fit, longest first: each document goes into the row where the least room is left after it. A document longer than a
row is cut into full rows that overlap by one token, so that each of its tokens is predicted once; what is left of it is
packed as a document.
"""

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

from firstlight.data import native
from firstlight.data.indexed import IndexedDataset
from firstlight.data.samples import Samples, require_numbers


class PackedDataset:
    """Rows of `sequence_length` + 1 places, each with whole documents; the rest of a row is not real."""

    def __init__(self, indexed: IndexedDataset, sequence_length: int, sequences: range) -> None:
        self.indexed = indexed
        self.sequence_length = sequence_length
        width = sequence_length + 1
        documents, offsets, lengths = _pieces(indexed.lengths[sequences.start : sequences.stop], sequence_length)
        longest_first = np.argsort(-lengths, kind="stable")
        rows = np.empty(len(lengths), np.int64)
        pack = native.GATHER.pack if native.GATHER else pack_with_python
        num_rows = pack(np.ascontiguousarray(lengths[longest_first]), width, rows)
        by_row = longest_first[np.argsort(rows, kind="stable")]
        self._documents = documents[by_row] + sequences.start
        self._offsets, self._lengths = offsets[by_row], lengths[by_row]
        self._ends = np.cumsum(np.bincount(rows, minlength=num_rows))
        self.num_tokens = int(lengths.sum())
        self.share_of_padding = 1 - self.num_tokens / (num_rows * width) if num_rows else 0.0

    def __len__(self) -> int:
        return len(self._ends)

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """Write row `numbers[i]` into row `rows[i]`. Raises IndexError."""
        require_numbers(numbers, len(self), self.indexed.prefix)
        for number, row in zip(numbers.tolist(), rows.tolist(), strict=True):
            filled = 0
            out.begins[row] = False
            first = int(self._ends[number - 1]) if number else 0
            for piece in range(first, int(self._ends[number])):
                length = int(self._lengths[piece])
                values = self.indexed.tokens(int(self._documents[piece]), int(self._offsets[piece]), length)
                out.tokens[row, filled : filled + length] = values
                out.begins[row, filled] = True
                filled += length
            out.tokens[row, filled:] = 0
            out.num_real[row] = filled


def _pieces(lengths: NDArray[np.int32], step: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(document, offset, length) of what is packed, int64 [P] each; empty documents give nothing."""
    sizes = lengths.astype(np.int64)
    # A piece of one token after the first has nothing to predict: the token is the last label of the one before.
    counts = np.where(sizes > 0, np.maximum(1, -(-(sizes - 1) // step)), 0)
    documents = np.repeat(np.arange(len(sizes)), counts)
    firsts = np.cumsum(counts) - counts
    offsets = (np.arange(len(documents)) - firsts[documents]) * step
    return documents, offsets, np.minimum(sizes[documents] - offsets, step + 1)


def pack_with_python(lengths: NDArray[np.int64], width: int, rows: NDArray[np.int64]) -> int:
    """Best fit of `lengths` [n], in their order, into rows of `width`; fills `rows` [n]; returns the number of rows.

    Of rows with equal room the last one used takes the document, as in the compiled twin.
    """
    with_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    num_rows = 0
    for number, length in enumerate(lengths.tolist()):
        place = bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms[place]
            row = with_room[room].pop()
            if not with_room[room]:
                del rooms[place]
        else:
            row, room = num_rows, width
            num_rows += 1
        rows[number] = row
        left = room - length
        waiting = with_room.setdefault(left, [])
        if not waiting:
            insort(rooms, left)
        waiting.append(row)
    return num_rows
