"""The documents of a corpus, in pieces and in batches of them for an encoder, each with its place in the corpus."""

from collections.abc import Iterator
from dataclasses import dataclass

from firstlight.data.corpus import Corpus, CorpusPosition, is_held_out
from firstlight.data.document import Document
from firstlight.data.faults import BadDocumentError
from firstlight.data.set_builder import Piece

_BATCH_CHARACTERS = 1 << 23
"""Enough for the encoder's threads to share; more would only take memory."""
_BATCH_PIECES = 1 << 15


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pieces of text, the faults met on the way to the last of them, and the bytes read so far.

    `position` is where the next batch begins, None inside a document: from there the corpus can be read again.
    """

    pieces: list[Piece]
    faults: list[BadDocumentError]
    num_read: int
    position: CorpusPosition | None


class Batches:
    """All pieces of a corpus. With `skips_faults`, documents that cannot be read are dropped, and told of; else
    BadDocumentError is raised."""

    def __init__(self, corpus: Corpus, held_out_fraction: float, *, skips_faults: bool) -> None:
        self._corpus = corpus
        self._fraction = held_out_fraction
        self._skips_faults = skips_faults
        self._faults: list[BadDocumentError] = []

    def __iter__(self) -> Iterator[Batch]:
        pieces: list[Piece] = []
        size = 0
        for piece in self._pieces():
            pieces.append(piece)
            size += len(piece.text)
            if size >= _BATCH_CHARACTERS or len(pieces) >= _BATCH_PIECES:
                yield self._batch(pieces)
                pieces, size = [], 0
        if pieces or self._faults:
            yield self._batch(pieces)

    def _batch(self, pieces: list[Piece]) -> Batch:
        is_whole = not pieces or pieces[-1].ends_document or pieces[-1].drops_document
        faults, self._faults = self._faults, []
        position = self._corpus.position if is_whole else None
        return Batch(pieces=pieces, faults=faults, num_read=self._corpus.num_read, position=position)

    def _add_fault(self, fault: BadDocumentError) -> None:
        self._faults.append(fault)

    def _pieces(self) -> Iterator[Piece]:
        for document in self._corpus.documents(self._add_fault if self._skips_faults else None):
            is_out = is_held_out(document.name, self._fraction)
            try:
                yield from _pieces_of(document, is_held_out=is_out)
            except BadDocumentError as fault:
                if not self._skips_faults:
                    raise
                self._faults.append(fault)
                yield Piece(text="", is_held_out=is_out, drops_document=True)


def _pieces_of(document: Document, *, is_held_out: bool) -> Iterator[Piece]:
    """The last piece ends the document; one without any text has a piece without text."""
    text, starts = "", True
    for sequence in document.sequences:
        for number, following in enumerate(sequence):
            if text:
                yield Piece(text=text, is_held_out=is_held_out, starts_sequence=starts)
            text, starts = following, number == 0
    yield Piece(text=text, is_held_out=is_held_out, starts_sequence=starts, ends_document=True)
