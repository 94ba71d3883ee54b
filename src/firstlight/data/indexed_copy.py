"""Ranges of documents of Megatron data sets, copied into new sets in constant memory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.indexed import HEADER, MAGIC, TOKEN_TYPES, VERSION, IndexedDataset, bin_path, idx_path, map_bytes
from firstlight.data.partial_file import PartialFile

_BLOCK = 1 << 20
_COPY_BYTES = 1 << 23


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentRange:
    """Documents `start` to `stop` of an open set."""

    indexed: IndexedDataset
    start: int
    stop: int

    @classmethod
    def whole(cls, indexed: IndexedDataset) -> "DocumentRange":
        """All documents."""
        return cls(indexed=indexed, start=0, stop=len(indexed.document_indices) - 1)

    @property
    def sequences(self) -> range:
        """Ids of the sequences that the documents have."""
        indices = self.indexed.document_indices
        return range(int(indices[self.start]), int(indices[self.stop]))


def write_sets(sets: Mapping[Path, Sequence[DocumentRange]]) -> None:
    """Write, for each output prefix, the documents of its ranges, one after the other, to `.bin` and `.idx`.

    The files are those that IndexedWriter would write of the same documents, with the modes of multimodal sets; all
    of them appear when all is well. Ranges of one output must agree in dtype and in having modes (InputError).
    """
    with ExitStack() as stack:
        files = []
        for output, ranges in sets.items():
            _require_alike(ranges)
            for path, write in ((bin_path(output), _write_tokens), (idx_path(output), _write_index)):
                file = PartialFile(path)
                stack.callback(file.discard)
                write(ranges, file)
                file.finish()
                files.append(file)
        for file in files:  # each .bin first, so that an .idx never stands beside a .bin that is not there
            file.publish()


def has_modes(one: IndexedDataset) -> bool:
    """Whether the .idx ends with a mode for each sequence, as those of multimodal sets do."""
    return len(one) > 0 and idx_path(one.prefix).stat().st_size > _modes_place(one)


def is_back_to_back(one: IndexedDataset) -> bool:
    """Whether the .bin holds the sequences one after the other in their order and nothing else, as writers leave it."""
    place = 0
    for start in range(0, len(one), _BLOCK):
        sizes = one.lengths[start : start + _BLOCK].astype(np.int64) * one.dtype.itemsize
        ends = place + np.cumsum(sizes)
        if not np.array_equal(one.pointers[start : start + _BLOCK], ends - sizes):
            return False
        place = int(ends[-1])
    return place == bin_path(one.prefix).stat().st_size


def _modes_place(one: IndexedDataset) -> int:
    return HEADER.size + 12 * len(one) + 8 * len(one.document_indices)


def _require_alike(ranges: Sequence[DocumentRange]) -> None:
    first = ranges[0].indexed
    with_modes: dict[bool, IndexedDataset] = {}
    for one in (part.indexed for part in ranges):
        if one.dtype != first.dtype:
            raise InputError(
                f"{one.prefix} holds {one.dtype}, but {first.prefix} {first.dtype}; only sets of one dtype can be "
                "merged: prepare one of them again with --dtype"
            )
        if len(one):  # without sequences there is no telling
            with_modes[has_modes(one)] = one
    if len(with_modes) > 1:
        raise InputError(
            f"{with_modes[True].prefix} is a multimodal set, {with_modes[False].prefix} is not; they cannot be merged"
        )


def _write_tokens(ranges: Sequence[DocumentRange], content: PartialFile) -> None:
    for part in ranges:
        one, sequences = part.indexed, part.sequences
        if not is_back_to_back(one):
            for sequence in sequences:
                content.file.write(one.tokens(sequence).tobytes())
        elif len(sequences):
            last = sequences[-1]
            stop = int(one.pointers[last]) + int(one.lengths[last]) * one.dtype.itemsize
            _copy_bytes(bin_path(one.prefix), range(int(one.pointers[sequences.start]), stop), content)


def _copy_bytes(path: Path, places: range, content: PartialFile) -> None:
    with path.open("rb") as source:
        source.seek(places.start)
        for start in range(places.start, places.stop, _COPY_BYTES):
            content.file.write(source.read(min(_COPY_BYTES, places.stop - start)))


def _write_index(ranges: Sequence[DocumentRange], index: PartialFile) -> None:
    num_sequences = sum(len(part.sequences) for part in ranges)
    num_documents = sum(part.stop - part.start for part in ranges)
    dtype = ranges[0].indexed.dtype
    code = TOKEN_TYPES.index(dtype.str.replace("|", "<")) + 1
    index.file.write(HEADER.pack(MAGIC, VERSION, code, num_sequences, num_documents + 1))
    for block in _lengths(ranges):
        index.file.write(block.astype("<i4").tobytes())
    place = 0
    for block in _lengths(ranges):
        sizes = block.astype(np.int64) * dtype.itemsize
        ends = place + np.cumsum(sizes)
        index.file.write((ends - sizes).astype("<i8").tobytes())
        place = int(ends[-1])
    _write_documents(ranges, index)
    for part in ranges:
        if has_modes(part.indexed):
            modes = map_bytes(idx_path(part.indexed.prefix))[_modes_place(part.indexed) :]
            index.file.write(modes[part.sequences.start : part.sequences.stop].data)


def _write_documents(ranges: Sequence[DocumentRange], index: PartialFile) -> None:
    index.file.write(bytes(8))
    num_before = 0
    for part in ranges:
        added = num_before - part.sequences.start
        for start in range(part.start + 1, part.stop + 1, _BLOCK):
            block = part.indexed.document_indices[start : min(start + _BLOCK, part.stop + 1)]
            index.file.write((block + added).astype("<i8").tobytes())
        num_before += len(part.sequences)


def _lengths(ranges: Sequence[DocumentRange]) -> Iterator[NDArray[Any]]:
    for part in ranges:
        for start in range(part.sequences.start, part.sequences.stop, _BLOCK):
            yield part.indexed.lengths[start : min(start + _BLOCK, part.sequences.stop)]
