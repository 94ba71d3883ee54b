"""What a Megatron data set holds: its numbers, its faults, the text of one document."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from firstlight.base.errors import InputError
from firstlight.data.indexed import IndexedDataset, bin_path, idx_path
from firstlight.data.indexed_copy import has_modes, is_back_to_back
from firstlight.data.metadata import bytes_per_token, different_file

_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Numbers of one data set; sizes in bytes, lengths in tokens. Without sequences there are no lengths."""

    dtype: str
    num_documents: int
    num_empty_documents: int
    num_sequences: int
    num_tokens: int
    shortest: int | None
    longest: int | None
    bin_bytes: int
    idx_bytes: int
    is_back_to_back: bool
    has_modes: bool
    bytes_per_token: float | None
    """Of text; known where `prepare` left its metadata."""


def facts(prefix: Path) -> Facts:
    """The numbers of the data set at `prefix`. Raises InputError when it is damaged."""
    one = IndexedDataset.open(prefix)
    ends = one.document_indices
    blocks = (ends[start : start + _BLOCK + 1] for start in range(0, len(ends) - 1, _BLOCK))
    return Facts(
        dtype=str(one.dtype),
        num_documents=len(ends) - 1,
        num_empty_documents=sum(int((block[1:] == block[:-1]).sum()) for block in blocks),
        num_sequences=len(one),
        num_tokens=one.num_tokens,
        shortest=int(one.lengths.min()) if len(one) else None,
        longest=int(one.lengths.max()) if len(one) else None,
        bin_bytes=bin_path(prefix).stat().st_size,
        idx_bytes=idx_path(prefix).stat().st_size,
        is_back_to_back=is_back_to_back(one),
        has_modes=has_modes(one),
        bytes_per_token=bytes_per_token(prefix),
    )


def verify(prefix: Path, vocabulary_size: int | None = None) -> Facts:
    """The numbers of a sound data set. Raises InputError, naming the first faulty sequence, for a damaged one.

    Where `prepare` left the SHA-256 of the files, every byte is held to it. With `vocabulary_size` every token is read,
    and one outside of it is a fault.
    """
    numbers = facts(prefix)
    fault = different_file(prefix)
    if fault is not None:
        raise InputError(f"{fault}; copy it again or prepare it again")
    if vocabulary_size is not None:
        one = IndexedDataset.open(prefix)
        for sequence, start, tokens in _blocks(one):
            wrong = np.flatnonzero((tokens < 0) | (tokens >= vocabulary_size))
            if len(wrong):
                place = start + int(wrong[0])
                raise InputError(
                    f"{prefix}: token {place} of sequence {sequence} is {tokens[wrong[0]]}, outside the "
                    f"{vocabulary_size} ids of the tokenizer; this set was made with another one"
                )
    return numbers


def decoded(prefix: Path, document: int, tokenizer: Tokenizer) -> list[str]:
    """The text of each sequence of document number `document` (from 0), special tokens spelled out.

    Raises InputError when there is no such document, or its tokens are no ids of the tokenizer.
    """
    one = IndexedDataset.open(prefix)
    num_documents = len(one.document_indices) - 1
    if not 0 <= document < num_documents:
        raise InputError(f"document {document} is not one of the {num_documents} of {prefix}; they count from 0")
    if one.dtype.kind not in "iu":
        raise InputError(f"{prefix} holds {one.dtype}, not ids of tokens")
    texts = []
    for sequence in range(int(one.document_indices[document]), int(one.document_indices[document + 1])):
        ids = one.tokens(sequence).tolist()
        unknown = next((number for number in ids if number < 0 or tokenizer.id_to_token(number) is None), None)
        if unknown is not None:
            raise InputError(f"{prefix}: id {unknown} in document {document} is not one of this tokenizer")
        texts.append(tokenizer.decode(ids, skip_special_tokens=False))
    return texts


def _blocks(one: IndexedDataset) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """(sequence, offset in it, tokens) of all tokens."""
    for sequence in range(len(one)):
        for start in range(0, int(one.lengths[sequence]), _BLOCK):
            yield sequence, start, one.tokens(sequence, start, min(_BLOCK, int(one.lengths[sequence]) - start))
