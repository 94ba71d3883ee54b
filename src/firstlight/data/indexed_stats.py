"""Statistics of a Megatron data set: lengths of its documents, use of its ids, ends of its documents.

Everything is read block by block: memory does not grow with the data set, apart from pages of the mapped .idx.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.data.indexed import IndexedDataset, bin_path, map_bytes
from firstlight.data.indexed_copy import is_back_to_back

MOST_IDS = 1 << 22
"""Ids from 0 to below this are counted one by one; a data set with others has no counts."""
_BLOCK = 1 << 20
_MAPPED_DOCUMENTS = 1 << 14
"""Documents whose last tokens are looked up through one memory map; its pages go when it does."""
_DIGIT_BITS = 16
_LENGTH_BITS = 64


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Of documents, in tokens; percentiles by nearest rank. `histogram`: (from, to, documents) for each power of 2."""

    minimum: int
    median: int
    mean: float
    percentile_95: int
    maximum: int
    histogram: list[tuple[int, int, int]]


@dataclass(frozen=True, kw_only=True)
class IdUse:
    """Which ids there are. `distinct` and `most_frequent` (id, count) are None where there are ids from MOST_IDS on."""

    smallest: int
    largest: int
    distinct: int | None
    most_frequent: list[tuple[int, int]] | None


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Of one data set. `ids` is None without tokens or for a set of floats; so is `last_id`, the id that most
    documents end with, (id, share of the documents with tokens at their end)."""

    num_documents: int
    num_empty_documents: int
    num_sequences: int
    num_tokens: int
    lengths: Lengths | None
    ids: IdUse | None
    last_id: tuple[int, float] | None


def stats(prefix: Path, num_most_frequent: int = 10) -> Stats:
    """The statistics of the data set at `prefix`; reads all of it. Raises InputError when it is damaged."""
    one = IndexedDataset.open(prefix)
    num_documents = len(one.document_indices) - 1
    indices = one.document_indices
    blocks = (indices[start : start + _BLOCK + 1] for start in range(0, num_documents, _BLOCK))
    has_ids = one.dtype.kind in "iu" and one.num_tokens > 0
    return Stats(
        num_documents=num_documents,
        num_empty_documents=sum(int((block[1:] == block[:-1]).sum()) for block in blocks),
        num_sequences=len(one),
        num_tokens=one.num_tokens,
        lengths=_lengths(one, num_documents) if num_documents else None,
        ids=_id_use(one, num_most_frequent) if has_ids else None,
        last_id=_last_id(one) if has_ids else None,
    )


def document_lengths(one: IndexedDataset) -> Iterator[NDArray[np.int64]]:
    """Tokens of each document, int64, in blocks of documents that have about a million sequences at most."""
    indices = one.document_indices
    start, num_documents = 0, len(indices) - 1
    while start < num_documents:
        block = indices[start : start + _BLOCK + 1].astype(np.int64)
        count = max(1, int(np.searchsorted(block, block[0] + _BLOCK, side="right")) - 1)
        block = block[: count + 1]
        if count == 1:
            yield one.lengths[block[0] : block[1]].sum(dtype=np.int64, keepdims=True)
        else:
            ends = np.concatenate([[0], np.cumsum(one.lengths[block[0] : block[-1]], dtype=np.int64)])
            yield np.diff(ends[block - block[0]])
        start += count


def _lengths(one: IndexedDataset, num_documents: int) -> Lengths:
    edges = np.array([0, *(1 << bit for bit in range(_LENGTH_BITS - 1))], np.int64)
    counts = np.zeros(len(edges), np.int64)
    smallest, largest = [], []
    for block in document_lengths(one):
        counts += np.bincount(np.searchsorted(edges, block, side="right") - 1, minlength=len(edges))
        smallest.append(int(block.min()))
        largest.append(int(block.max()))
    used = np.flatnonzero(counts)
    return Lengths(
        minimum=min(smallest),
        median=_ranked(one, math.ceil(num_documents * 0.5)),
        mean=one.num_tokens / num_documents,
        percentile_95=_ranked(one, math.ceil(num_documents * 0.95)),
        maximum=max(largest),
        histogram=[(int(edges[k]), 0 if k == 0 else 2 * int(edges[k]) - 1, int(counts[k])) for k in used],
    )


def _ranked(one: IndexedDataset, rank: int) -> int:
    """The rank-th smallest length of a document, from 1: 16 bits more of it are known after each pass."""
    low = 0
    for shift in range(_LENGTH_BITS - _DIGIT_BITS, -1, -_DIGIT_BITS):
        counts = np.zeros(1 << _DIGIT_BITS, np.int64)
        for block in document_lengths(one):
            digits = (block - low) >> shift
            counts += np.bincount(digits[(digits >= 0) & (digits < len(counts))], minlength=len(counts))
        before = np.cumsum(counts)
        digit = int(np.searchsorted(before, rank))
        rank -= int(before[digit - 1]) if digit else 0
        low += digit << shift
    return low


class _Counts:
    """How often each id occurs."""

    def __init__(self) -> None:
        self.smallest = 0
        self.largest = 0
        self.num_ids = 0
        self._table: NDArray[np.int64] | None = np.zeros(0, np.int64)

    def add(self, ids: NDArray[Any]) -> None:
        if len(ids) == 0:
            return
        low, high = int(ids.min()), int(ids.max())
        self.smallest = min(self.smallest, low) if self.num_ids else low
        self.largest = max(self.largest, high) if self.num_ids else high
        self.num_ids += len(ids)
        if low < 0 or high >= MOST_IDS:
            self._table = None
        if self._table is None:
            return
        if high >= len(self._table):
            self._table = np.concatenate([self._table, np.zeros(high + 1 - len(self._table), np.int64)])
        counts = np.bincount(ids)
        self._table[: len(counts)] += counts

    def distinct(self) -> int | None:
        return None if self._table is None else int(np.count_nonzero(self._table))

    def most_frequent(self, wanted: int) -> list[tuple[int, int]] | None:
        """The most frequent first; of equal ones the smaller id."""
        if self._table is None:
            return None
        first = np.argsort(-self._table, kind="stable")[:wanted]
        return [(int(number), int(self._table[number])) for number in first if self._table[number]]


def _id_use(one: IndexedDataset, num_most_frequent: int) -> IdUse:
    counts = _Counts()
    for block in _tokens(one):
        counts.add(block)
    return IdUse(
        smallest=counts.smallest,
        largest=counts.largest,
        distinct=counts.distinct(),
        most_frequent=counts.most_frequent(num_most_frequent),
    )


def _last_id(one: IndexedDataset) -> tuple[int, float] | None:
    counts = _Counts()
    offsets = np.arange(one.dtype.itemsize)
    for start in range(0, len(one.document_indices) - 1, _MAPPED_DOCUMENTS):
        block = one.document_indices[start : start + _MAPPED_DOCUMENTS + 1]
        last = block[1:][block[1:] > block[:-1]] - 1
        last = last[one.lengths[last] > 0]
        places = one.pointers[last] + (one.lengths[last].astype(np.int64) - 1) * one.dtype.itemsize
        counts.add(map_bytes(bin_path(one.prefix))[places[:, None] + offsets].view(one.dtype).reshape(-1))
    most = counts.most_frequent(1)
    return (most[0][0], most[0][1] / counts.num_ids) if most else None


def _tokens(one: IndexedDataset) -> Iterator[NDArray[Any]]:
    """All tokens in blocks. Read, not mapped, where sequences lie one after the other: no page of them is kept."""
    if is_back_to_back(one):
        with bin_path(one.prefix).open("rb") as file:
            for start in range(0, one.num_tokens, _BLOCK):
                yield np.fromfile(file, one.dtype, min(_BLOCK, one.num_tokens - start))
        return
    for sequence, length in enumerate(one.lengths):
        for start in range(0, int(length), _BLOCK):
            yield one.tokens(sequence, start, min(_BLOCK, int(length) - start))
