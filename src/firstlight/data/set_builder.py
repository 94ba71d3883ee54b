"""The tokens of pieces of text, put together to documents of one data set, and counted."""

from dataclasses import dataclass

import numpy as np

from firstlight.data.encoder import Ids
from firstlight.data.indexed_writer import IndexedWriter
from firstlight.data.rows import RowWriter


@dataclass(kw_only=True)
class SetSummary:
    """One data set: documents with text, tokens (ends of documents included), bytes of text.

    For rows of one length also their number, the tokens that are in none and the documents that were cut off.
    """

    prefix: str
    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    rows: int | None = None
    tokens_left_out: int = 0
    documents_cut: int = 0

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text for each token."""
        return self.bytes / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a document, encoded by itself. One that drops its document takes the parts before it along."""

    text: str
    is_held_out: bool
    starts_sequence: bool = False
    ends_document: bool = False
    drops_document: bool = False


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Ids that begin and end every document with text."""

    begin_id: int | None = None
    end_id: int | None = None


class SetBuilder:
    """Puts the tokens of pieces into one data set, and counts."""

    def __init__(self, writer: IndexedWriter | RowWriter, edges: Edges) -> None:
        self.summary = SetSummary(prefix=str(writer.prefix))
        self._writer = writer
        self._begin = None if edges.begin_id is None else np.array([edges.begin_id], np.uint32)
        self._end = None if edges.end_id is None else np.array([edges.end_id], np.uint32)
        self._has_text = False
        self._num_bytes = 0

    def add(self, piece: Piece, ids: Ids) -> None:
        """The tokens of the next piece. A sequence without tokens is left out, a document without is kept empty."""
        if piece.drops_document:
            self._writer.drop_document()
            self._has_text = False
            self._num_bytes = 0
            return
        if len(ids):
            if piece.starts_sequence and self._writer.has_open_sequence:
                self._writer.end_sequence()
            if not self._has_text and self._begin is not None:
                self._writer.add(self._begin)
            self._writer.add(ids)
            self._has_text = True
            self._num_bytes += len(piece.text) if piece.text.isascii() else len(piece.text.encode())
        if piece.ends_document:
            self._end_document()

    def _end_document(self) -> None:
        if self._has_text and self._end is not None:
            self._writer.add(self._end)
        self._writer.end_document()
        self.summary.documents += self._has_text
        self.summary.bytes += self._num_bytes
        self.summary.tokens = self._writer.num_tokens
        if isinstance(self._writer, RowWriter):
            self.summary.rows = self._writer.num_rows
            self.summary.tokens_left_out = self._writer.num_tokens_left_out
            self.summary.documents_cut = self._writer.num_documents_cut
        self._has_text = False
        self._num_bytes = 0
