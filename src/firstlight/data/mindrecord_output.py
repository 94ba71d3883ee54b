"""What `prepare` wrote, once more as MindRecord sets: rows, or whole documents, of token ids."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.indexed import IndexedDataset, bin_path, idx_path
from firstlight.data.mindrecord_header import Column
from firstlight.data.mindrecord_writer import MindRecordWriter
from firstlight.data.prepare import PrepareRequest, PrepareSummary, prepare

TOKENS_COLUMN = "input_ids"
SUFFIX = ".mindrecord"

_SETS = ("_text_document", "_heldout_text_document")


def prepare_mindrecord(request: PrepareRequest, num_shards: int = 1) -> PrepareSummary:
    """`prepare`, but its sets are `<prefix>_text_document.mindrecord` ..., each of `num_shards` files and their .db.

    The column input_ids, int32 of any length, holds a row, or all of a document where rows were not asked for; a
    document without tokens has no row. The Megatron sets are made on the way and then removed. Raises InputError as
    `prepare` does, and when a Megatron set of this name is there already, which would be lost.
    """
    for name in _SETS:
        if bin_path(Path(f"{request.output_prefix}{name}")).exists():
            raise InputError(
                f"{bin_path(Path(f'{request.output_prefix}{name}'))} is there already, and --output-format mindrecord "
                "needs its place for a while; choose another --output-prefix, or remove it"
            )
    summary = prepare(request)
    prefixes = [Path(one.prefix) for one in (summary.training, summary.held_out) if one is not None]
    try:
        for prefix in prefixes:
            write_as_mindrecord(prefix, Path(f"{prefix}{SUFFIX}"), num_shards)
    finally:
        for prefix in prefixes:
            idx_path(prefix).unlink()
            bin_path(prefix).unlink()
    return summary


def write_as_mindrecord(prefix: Path, path: Path, num_shards: int) -> None:
    """The documents of a Megatron set of ids as rows of the MindRecord set `path`. Raises InputError."""
    with MindRecordWriter(path, {TOKENS_COLUMN: Column(type="int32", shape=(-1,))}, num_shards=num_shards) as writer:
        for tokens in _documents(IndexedDataset.open(prefix)):
            writer.add({TOKENS_COLUMN: tokens})


def _documents(indexed: IndexedDataset) -> Iterator[NDArray[np.int32]]:
    """The tokens of every document that has some."""
    ends = indexed.document_indices.tolist()
    for first, end in zip(ends, ends[1:], strict=False):
        parts = [indexed.tokens(k) for k in range(first, end)]
        if any(map(len, parts)):
            yield np.concatenate(parts).astype(np.int32)
