"""Samples from text that is tokenised while it is read: nothing to prepare, every token made anew in each epoch."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.document import cut
from firstlight.data.encoder import Encoder
from firstlight.data.json_text import checked_texts
from firstlight.data.samples import Samples, require_numbers
from firstlight.data.streamed_texts import Place, StreamedTexts

_BATCH_CHARACTERS = 1 << 20
_BATCH_DOCUMENTS = 128
_MOST_KEPT = 64
"""Positions that were asked for: where to go on when an earlier sample is wanted again."""

Documents = Callable[[Place], Iterator[tuple[Place, NDArray[np.int32]]]]
"""Tokens of the documents from a place on, without end; each with its place and at least one token."""


class EncodedDocuments:
    """The tokens of documents with text, each ended by `end_id`; those without text are left out."""

    def __init__(self, texts: StreamedTexts, encoder: Encoder, end_id: int) -> None:
        self._texts = texts
        self._encoder = encoder
        self._end = np.array([end_id], np.int32)

    def __call__(self, place: Place) -> Iterator[tuple[Place, NDArray[np.int32]]]:
        """From `place` on. Raises InputError when a document is no text, or an epoch has no text at all."""
        last_epoch = place.epoch
        for places, documents in self._batches(place):
            pieces = [piece for document in documents for piece in document]
            ids = iter(self._encoder.encode(pieces))
            for here, document in zip(places, documents, strict=True):
                parts = [next(ids).astype(np.int32) for _ in document]
                if any(map(len, parts)):
                    last_epoch = here.epoch
                    yield here, np.concatenate([*parts, self._end])
            if places[-1].epoch > last_epoch + 1:
                raise InputError(f"{self._texts.name} has documents, but no text in any; name files that have some")

    def _batches(self, place: Place) -> Iterator[tuple[list[Place], list[list[str]]]]:
        places: list[Place] = []
        documents: list[list[str]] = []
        size = 0
        for here, value in self._texts.read(place):
            pieces = self._pieces(here, value)
            places.append(here)
            documents.append(pieces)
            size += sum(map(len, pieces))
            if size >= _BATCH_CHARACTERS or len(places) >= _BATCH_DOCUMENTS:
                yield places, documents
                places, documents, size = [], [], 0

    def _pieces(self, place: Place, value: object) -> list[str]:
        """Cut as `prepare` cuts, so that the same text has the same tokens."""
        where = f"{self._texts.name}: document {place.within} after row {place.row} of shard {place.shard}"
        return [piece for text in checked_texts(value, "text", where) for piece in cut([text]) if piece]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Laid:
    """The tokens of one document, the first of which is token `first` of the run."""

    first: int
    tokens: NDArray[np.int32]
    place: Place

    @property
    def end(self) -> int:
        return self.first + len(self.tokens)


class StreamedDataset:
    """Sample j is tokens [j * L, j * L + L] of documents laid end to end, epoch after epoch.

    To read on is cheap; for a sample before the last one that was read or asked about, the reading begins again at the
    nearest position that was asked for, or at the beginning. Memory: the documents of one sample and those encoded
    with them.
    """

    def __init__(self, documents: Documents, *, sequence_length: int, num_samples: int, name: str) -> None:
        """`num_samples`: as many as will be asked for; the text is repeated for them."""
        self.sequence_length = sequence_length
        self._documents = documents
        self._num_samples = num_samples
        self._name = name
        self._kept: deque[tuple[int, Place]] = deque(maxlen=_MOST_KEPT)
        self._laid: deque[_Laid] = deque()
        self._end = 0
        self._ahead = documents(Place())

    def __len__(self) -> int:
        return self._num_samples

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """Write sample `numbers[i]` into row `rows[i]`; all tokens are real. Raises IndexError, InputError."""
        require_numbers(numbers, len(self), self._name)
        for which in np.argsort(numbers, kind="stable").tolist():
            self._fill(int(numbers[which]), out, int(rows[which]))

    def position(self, number: int) -> dict[str, Any]:
        """The document that sample `number` begins in, and its first token's number."""
        laid = self._document_at(number * self.sequence_length)
        if not self._kept or self._kept[-1][0] != laid.first:
            self._kept.append((laid.first, laid.place))
        return {"first_token": laid.first, "document": laid.place.to_plain()}

    def go_to(self, number: int, position: Mapping[str, Any]) -> None:
        """Go on in the document that `position` gave for sample `number`, without the ones before it."""
        first, document = position.get("first_token"), position.get("document")
        if type(first) is not int or not isinstance(document, Mapping) or first > number * self.sequence_length:
            raise InputError(f"the saved position of {self._name} is not one of before sample {number}: {first}")
        place = Place.of(document)
        self._kept.append((first, place))
        self._restart(first, place)

    def _fill(self, number: int, out: Samples, row: int) -> None:
        first, width = number * self.sequence_length, self.sequence_length + 1
        self._document_at(first)
        while self._end < first + width:
            self._lay()
        out.begins[row] = False
        for laid in self._laid:
            start = max(laid.first, first)
            if start >= first + width:
                break
            part = laid.tokens[start - laid.first : first + width - laid.first]
            out.tokens[row, start - first : start - first + len(part)] = part
            out.begins[row, start - first] = laid.first >= first
        out.begins[row, 0] = True
        out.num_real[row] = width

    def _document_at(self, token: int) -> _Laid:
        """The document with token number `token`; those before it are forgotten."""
        if token < (self._laid[0].first if self._laid else self._end):
            before = [kept for kept in self._kept if kept[0] <= token]
            self._restart(*max(before, key=lambda kept: kept[0], default=(0, Place())))
        while not self._laid or self._laid[0].end <= token:
            if self._laid:
                self._laid.popleft()
            else:
                self._lay()
        return self._laid[0]

    def _restart(self, first: int, place: Place) -> None:
        self._laid.clear()
        self._end = first
        self._ahead = self._documents(place)

    def _lay(self) -> None:
        place, tokens = next(self._ahead)
        self._laid.append(_Laid(first=self._end, tokens=tokens, place=place))
        self._end += len(tokens)
