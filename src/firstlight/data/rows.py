"""Documents into rows of one length, as MindFormers' wikitext_to_bin.py cuts them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from firstlight.data.indexed_writer import IndexedWriter

RowKind = Literal["stitch", "pad"]
"""Documents one after the other and cut, or each one cut or filled up."""

Tokens = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class RowState:
    """What rows that go on later begin with."""

    num_rows: int
    num_tokens_left_out: int
    num_documents_cut: int
    rest: Sequence[int]
    """Tokens that are in no row yet."""


class RowWriter:
    """Takes documents as IndexedWriter does, and writes rows of `length` tokens, each a document of one sequence.

    `stitch`: the tokens of all documents follow one another; what is left at the end is left out. `pad`: a document is
    one row, cut off or filled up with `pad_id`; one without tokens is none. Memory: one document's tokens.
    """

    def __init__(self, writer: IndexedWriter, kind: RowKind, length: int, pad_id: int | None = None) -> None:
        self.prefix = writer.prefix
        self.dtype = writer.dtype
        self.num_rows = 0
        self.num_tokens_left_out = 0
        self.num_documents_cut = 0
        self._writer = writer
        self._kind = kind
        self._length = length
        self._padding = None if pad_id is None else np.full(length, pad_id, writer.dtype)
        self._document: list[Tokens] = []
        self._rest: Tokens = np.empty(0, writer.dtype)

    @property
    def num_tokens(self) -> int:
        """Tokens in rows so far, padding included."""
        return self._writer.num_tokens

    @property
    def has_open_sequence(self) -> bool:
        """Whether tokens were added since the document began."""
        return bool(self._document)

    def add(self, tokens: Tokens) -> None:
        """Append tokens [n] to the document."""
        if len(tokens):
            self._document.append(tokens)

    def end_sequence(self) -> None:
        """Sequences of a document simply follow one another."""

    def end_document(self) -> None:
        """Write the rows that are full now."""
        document = np.concatenate([*self._document, self._rest[:0]])
        self._document = []
        if self._kind == "pad":
            self._pad(document)
            return
        tokens = np.concatenate([self._rest, document])
        num_whole = len(tokens) // self._length * self._length
        for start in range(0, num_whole, self._length):
            self._row(tokens[start : start + self._length])
        self._rest = tokens[num_whole:]
        self.num_tokens_left_out = len(self._rest)

    def state(self) -> RowState:
        """What is needed, beside the state of the writer beneath, to go on from the end of this document."""
        return RowState(
            num_rows=self.num_rows,
            num_tokens_left_out=self.num_tokens_left_out,
            num_documents_cut=self.num_documents_cut,
            rest=self._rest.tolist(),
        )

    def restore(self, state: RowState) -> None:
        """Go on from there."""
        self.num_rows = state.num_rows
        self.num_tokens_left_out = state.num_tokens_left_out
        self.num_documents_cut = state.num_documents_cut
        self._rest = np.array(state.rest, self.dtype)

    def drop_document(self) -> None:
        """Forget the tokens of the document."""
        self._document = []

    def _pad(self, document: Tokens) -> None:
        if len(document) == 0:
            return
        missing = self._length - len(document)
        if missing < 0:
            self.num_tokens_left_out -= missing
            self.num_documents_cut += 1
        elif missing and self._padding is None:
            raise ValueError("rows are to be filled up, but with which id was not said")
        parts = [document] if missing <= 0 or self._padding is None else [document, self._padding[:missing]]
        self._row(np.concatenate(parts)[: self._length])

    def _row(self, tokens: Tokens) -> None:
        self._writer.add(tokens)
        self._writer.end_document()
        self.num_rows += 1
