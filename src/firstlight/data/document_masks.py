"""What follows from where documents begin: positions, attention masks and lengths, for a batch of rows at once.

`begins` bool [n, L] is True where a document begins; the first place of each row counts as such whatever it says.
"""

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError


def begins_after(tokens: NDArray[np.int32], end_of_document: int) -> NDArray[np.bool_]:
    """`begins` bool [n, L] of rows whose documents are told apart by the token that ends them."""
    begins = np.zeros(tokens.shape, np.bool_)
    begins[:, 1:] = tokens[:, :-1] == end_of_document
    begins[:, 0] = True
    return begins


def document_numbers(begins: NDArray[np.bool_]) -> NDArray[np.int32]:
    """int32 [n, L]: 0 for the first document of each row, 1 for the next one, and so on."""
    later = begins.copy()
    later[:, 0] = False
    return np.cumsum(later, axis=1, dtype=np.int32)


def restarting_positions(begins: NDArray[np.bool_]) -> NDArray[np.int32]:
    """int32 [n, L]: positions counted from the beginning of each document (Megatron's reset_position_ids)."""
    places = np.arange(begins.shape[1], dtype=np.int32)
    starts = np.where(begins, places, 0).astype(np.int32)
    return places - np.maximum.accumulate(starts, axis=1)


def attention_mask(begins: NDArray[np.bool_] | None, length: int) -> NDArray[np.bool_]:
    """bool [n, L, L], as Megatron's dense mask: True where row's place i must not see place j.

    With `begins`, documents do not see each other (reset_attention_mask); without, one mask [1, L, L] is only causal.
    """
    future = np.triu(np.ones((length, length), np.bool_), 1)[None]
    if begins is None:
        return future
    numbers = document_numbers(begins)
    return np.asarray(future | (numbers[:, :, None] != numbers[:, None, :]))


def cumulative_lengths(begins: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where documents begin, int32 [n, L + 1] filled up with L, and the length of the longest of each row, int32 [n].

    This is Megatron's cu_seqlens and max_seqlen of inter_document_masking: by boundary, not by token value.
    """
    num_rows, length = begins.shape
    ends = np.full((num_rows, length + 1), length, np.int32)
    for row, begin in enumerate(begins):
        starts = np.flatnonzero(begin[1:]) + 1
        ends[row, 0] = 0
        ends[row, 1 : len(starts) + 1] = starts
    return ends, np.diff(ends, axis=1).max(axis=1).astype(np.int32)


def compressed_ends(tokens: NDArray[np.int32], end_of_document: int, width: int = 128) -> NDArray[np.int32]:
    """The place after each end of document, int32 [n, width] filled up with L: MindFormers' compressed EOD mask.

    An end at the last place is left out, as L stands for it. Raises InputError when a row has more than `width`.
    """
    length = tokens.shape[1]
    ends = np.full((len(tokens), width), length, np.int32)
    for row, values in enumerate(tokens):
        places = np.flatnonzero(values[:-1] == end_of_document) + 1
        if len(places) >= width:
            raise InputError(
                f"a sequence has {len(places) + 1} documents, but the compressed mask has room for {width}; "
                "use a larger width or longer documents"
            )
        ends[row, : len(places)] = places
    return ends
