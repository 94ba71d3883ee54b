"""Writes Megatron's indexed data sets, byte for byte as Megatron does, in pieces of any size."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.indexed import HEADER, MAGIC, TOKEN_TYPES, VERSION, bin_path, idx_path
from firstlight.data.partial_file import SUFFIX, PartialFile
from firstlight.data.saved_array import SavedArray

_MOST_TOKENS = 2**31 - 1
"""Lengths of sequences are stored as int32."""
_HELD_TOKENS = 1 << 20
"""Tokens that are collected before they are converted and written together."""
INTERRUPTIONS = (KeyboardInterrupt, SystemExit, OSError)
"""What may stop a writer though nothing is wrong with the data: then what was saved is kept."""


def unfinished_paths(prefix: Path) -> list[Path]:
    """All files that an unfinished set at `prefix` may have: .bin, .idx, and what stands for the .idx meanwhile."""
    idx = idx_path(prefix)
    paths = (bin_path(prefix), idx, f"{idx}.lengths", f"{idx}.documents")
    return [Path(f"{path}{SUFFIX}") for path in paths]


@dataclass(frozen=True, kw_only=True)
class WriterState:
    """How much of a data set lies whole on disk: what a writer needs to go on from there."""

    num_tokens: int
    num_sequences: int
    num_documents: int
    num_bytes: int
    """Of the .bin."""

    def is_there(self, prefix: Path) -> bool:
        """Whether unfinished files at `prefix` hold all of it."""
        expected = {
            f"{bin_path(prefix)}{SUFFIX}": self.num_bytes,
            f"{idx_path(prefix)}.lengths{SUFFIX}": 4 * self.num_sequences,
            f"{idx_path(prefix)}.documents{SUFFIX}": 8 * (self.num_documents + 1),
        }
        return all(os.path.isfile(path) and os.path.getsize(path) >= size for path, size in expected.items())


class IndexedWriter:
    """A context manager: `add` tokens, `end_sequence`, `end_document`; the files appear when it ends well.

    `counts`, int64 [vocabulary size], becomes the number of times that each id is in the set. With `state`, goes on
    where another writer was when it gave that state. Memory: 4 bytes for each sequence and 8 for each document, and
    the tokens of the last few calls, which must not change meanwhile. An exception inside leaves no file behind,
    unless a state was saved and the exception is none of the data's: an interrupt, or a full disk.
    """

    def __init__(
        self,
        prefix: Path,
        dtype: np.dtype[Any],
        *,
        counts: NDArray[np.int64] | None = None,
        state: WriterState | None = None,
    ) -> None:
        self.prefix = prefix
        self.dtype = dtype.newbyteorder("<")
        self.num_tokens = 0
        self._code = TOKEN_TYPES.index(self.dtype.str.replace("|", "<")) + 1
        self._saved = state
        self._counts = counts
        self._num_counted = 0
        self._num_closed = 0
        self._open_length = 0
        self._held: list[NDArray[Any]] = []
        self._num_held = 0
        self._is_handed_over = False

    def __enter__(self) -> "IndexedWriter":
        state = self._saved
        idx = idx_path(self.prefix)
        self._bin = PartialFile(bin_path(self.prefix), None if state is None else state.num_bytes)
        self._idx = PartialFile(idx)
        self._saved_lengths = SavedArray(Path(f"{idx}.lengths"), "i", None if state is None else state.num_sequences)
        num_indices = None if state is None else state.num_documents + 1
        self._saved_indices = SavedArray(Path(f"{idx}.documents"), "q", num_indices)
        self._lengths = self._saved_lengths.values
        self._document_indices = self._saved_indices.values
        if state is None:
            self._document_indices.append(0)
        else:
            self.num_tokens = self._num_closed = state.num_tokens
            self._count(np.empty(0, self.dtype))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._is_handed_over:
            return
        try:
            if kind is None:
                for file in self.finish():
                    file.publish()
        finally:
            if kind is None or self._saved is None or not issubclass(kind, INTERRUPTIONS):
                self._bin.discard()
                self._saved_lengths.discard()
                self._saved_indices.discard()
            self._idx.discard()

    @property
    def has_open_sequence(self) -> bool:
        """Whether tokens were added since a sequence or document last ended."""
        return self._open_length > 0

    @property
    def state(self) -> WriterState:
        """Where the writer is, between two documents."""
        return WriterState(
            num_tokens=self.num_tokens,
            num_sequences=len(self._lengths),
            num_documents=len(self._document_indices) - 1,
            num_bytes=self.num_tokens * self.dtype.itemsize,
        )

    def add(self, tokens: NDArray[Any]) -> None:
        """Append tokens, integers [n], to the sequence being written.

        Raises InputError when the sequence gets longer than int32 counts; here, or as late as at the end, when an id
        does not fit the dtype.
        """
        if len(tokens) == 0:
            return
        if self._open_length + len(tokens) > _MOST_TOKENS:
            raise InputError(
                f"{self.prefix}: a sequence has more than the {_MOST_TOKENS} tokens that the format can count; "
                "make smaller documents, for example with --documents line or --documents blank-line"
            )
        self._held.append(tokens)
        self._num_held += len(tokens)
        self._open_length += len(tokens)
        self.num_tokens += len(tokens)
        if self._num_held >= _HELD_TOKENS:
            self.write_held()

    def end_sequence(self) -> None:
        """End the sequence being written; without tokens, it is an empty one."""
        self._lengths.append(self._open_length)
        self._open_length = 0

    def end_document(self) -> None:
        """End the document, and its last sequence if that has tokens. A document may have no sequence."""
        if self._open_length:
            self.end_sequence()
        self._document_indices.append(len(self._lengths))
        self._num_closed = self.num_tokens

    def drop_document(self) -> None:
        """Take back what was added since the last document ended."""
        self.write_held()
        num_sequences = self._document_indices[-1]
        num_tokens = self._open_length + sum(self._lengths[num_sequences:])
        del self._lengths[num_sequences:]
        self._open_length = 0
        self.num_tokens -= num_tokens
        self._bin.file.seek(self.num_tokens * self.dtype.itemsize)
        self._bin.file.truncate()

    def save(self) -> WriterState:
        """Put all documents on disk; a writer that is given the state goes on after them. None may be open."""
        if self._num_closed != self.num_tokens or self._document_indices[-1] != len(self._lengths):
            raise ValueError(f"{self.prefix}: a document is open")
        self.write_held()
        self._bin.flush()
        self._saved_lengths.save()
        self._saved_indices.save()
        self._saved = self.state
        return self._saved

    def finish(self) -> list[PartialFile]:
        """Put both files on disk, and hand them over to be published, in this order, by the caller."""
        self._finish()
        self._is_handed_over = True
        return [self._bin, self._idx]  # so that an .idx never stands beside a .bin that is not there

    def write_held(self) -> None:
        """Write the tokens of the last calls now, and let go of them: they may be parts of something larger."""
        if not self._held:
            return
        tokens = np.concatenate(self._held)
        self._held = []
        self._num_held = 0
        if tokens.dtype != self.dtype:
            tokens = self._convert(tokens)
        self._bin.file.write(tokens.data)
        self._count(tokens)

    def _count(self, last: NDArray[Any]) -> None:
        """Count the tokens of documents that are closed; `last` are the ones written last, the others are read."""
        if self._counts is None or self._num_closed <= self._num_counted:
            return
        first = self.num_tokens - self._num_held - len(last)
        if self._num_counted < first:
            self._bin.file.flush()
        while self._num_counted < min(first, self._num_closed):
            size = min(_HELD_TOKENS, min(first, self._num_closed) - self._num_counted)
            place = self._num_counted * self.dtype.itemsize
            tokens = np.fromfile(f"{bin_path(self.prefix)}{SUFFIX}", self.dtype, size, offset=place)
            self._counts += np.bincount(tokens, minlength=len(self._counts))
            self._num_counted += size
        rest = last[self._num_counted - first : self._num_closed - first]
        if len(rest):
            self._counts += np.bincount(rest, minlength=len(self._counts))
        self._num_counted = self._num_closed

    def _convert(self, tokens: NDArray[Any]) -> NDArray[Any]:
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            low, high = tokens.min(), tokens.max()
            if low < limits.min or high > limits.max:
                raise InputError(f"{self.prefix}: ids from {low} to {high} do not fit {self.dtype}")
        return tokens.astype(self.dtype)

    def _finish(self) -> None:
        self.write_held()
        if self._document_indices[-1] != len(self._lengths) or self._open_length:
            raise ValueError(f"{self.prefix}: the last document was not ended")
        self._count(np.empty(0, self.dtype))
        lengths = np.frombuffer(self._lengths, np.int32) if self._lengths else np.empty(0, np.int32)
        pointers = np.zeros(len(lengths), np.int64)
        np.cumsum(lengths[:-1], dtype=np.int64, out=pointers[1:])
        pointers *= self.dtype.itemsize
        document_indices = np.frombuffer(self._document_indices, np.int64)
        header = HEADER.pack(MAGIC, VERSION, self._code, len(lengths), len(document_indices))
        self._idx.file.write(header)
        for values in (lengths, pointers, document_indices):
            little = values if sys.byteorder == "little" else values.byteswap()
            self._idx.file.write(little.data)
        self._bin.finish()
        self._idx.finish()
