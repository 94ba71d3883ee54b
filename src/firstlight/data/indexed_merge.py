"""Several Megatron data sets into one, as Megatron's merge does it, in constant memory."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.indexed import HEADER, MAGIC, TOKEN_TYPES, VERSION, IndexedDataset, bin_path, idx_path
from firstlight.data.partial_file import PartialFile

_BLOCK = 1 << 20
_COPY_BYTES = 1 << 23


def merge(prefixes: Sequence[Path], output: Path) -> None:
    """Write the documents of all `prefixes`, in their order, to `<output>.bin` and `.idx`.

    The files are those that IndexedWriter would write of the same documents; they appear when all is well.
    Raises InputError when a set is damaged, dtypes differ, there are modes (of multimodal sets), or the output is one
    of the inputs.
    """
    if output.absolute() in {prefix.absolute() for prefix in prefixes}:
        raise InputError(f"{output} is one of the data sets to merge; choose another output")
    sets = [IndexedDataset.open(prefix) for prefix in prefixes]
    _require_alike(sets)
    content, index = PartialFile(bin_path(output)), None
    try:
        index = PartialFile(idx_path(output))
        for one in sets:
            _copy_tokens(one, content)
        _write_index(sets, index)
        content.finish()
        index.finish()
        content.publish()  # first, so that an .idx never stands beside a .bin that is not there
        index.publish()
    finally:
        content.discard()
        if index is not None:
            index.discard()


def has_modes(one: IndexedDataset) -> bool:
    """Whether the .idx ends with a mode for each sequence, as those of multimodal sets do."""
    plain = HEADER.size + 12 * len(one) + 8 * len(one.document_indices)
    return len(one) > 0 and idx_path(one.prefix).stat().st_size > plain


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


def _require_alike(sets: Sequence[IndexedDataset]) -> None:
    for one in sets:
        if one.dtype != sets[0].dtype:
            raise InputError(
                f"{one.prefix} holds {one.dtype}, but {sets[0].prefix} {sets[0].dtype}; only sets of one dtype can be "
                "merged: prepare one of them again with --dtype"
            )
        if has_modes(one):
            raise InputError(f"{one.prefix} is a multimodal set; merging these is not supported")


def _copy_tokens(one: IndexedDataset, content: PartialFile) -> None:
    if is_back_to_back(one):
        with bin_path(one.prefix).open("rb") as source:
            shutil.copyfileobj(source, content.file, _COPY_BYTES)
        return
    for sequence in range(len(one)):
        content.file.write(one.tokens(sequence).tobytes())


def _write_index(sets: Sequence[IndexedDataset], index: PartialFile) -> None:
    num_sequences = sum(len(one) for one in sets)
    num_documents = sum(len(one.document_indices) - 1 for one in sets)
    code = TOKEN_TYPES.index(sets[0].dtype.str.replace("|", "<")) + 1
    index.file.write(HEADER.pack(MAGIC, VERSION, code, num_sequences, num_documents + 1))
    for one in sets:
        _write_blocks(one.lengths, index, "<i4", 0)
    place = 0
    for one in sets:
        for start in range(0, len(one), _BLOCK):
            sizes = one.lengths[start : start + _BLOCK].astype(np.int64) * one.dtype.itemsize
            ends = place + np.cumsum(sizes)
            index.file.write((ends - sizes).astype("<i8").tobytes())
            place = int(ends[-1])
    index.file.write(bytes(8))
    before = 0
    for one in sets:
        _write_blocks(one.document_indices[1:], index, "<i8", before)
        before += len(one)


def _write_blocks(values: NDArray[Any], index: PartialFile, dtype: str, added: int) -> None:
    for start in range(0, len(values), _BLOCK):
        index.file.write((values[start : start + _BLOCK] + added).astype(dtype).tobytes())
