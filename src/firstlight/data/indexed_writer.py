"""Writes Megatron's indexed data sets, byte for byte as Megatron does, in pieces of any size."""

import sys
from array import array
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.indexed import HEADER, MAGIC, TOKEN_TYPES, VERSION, bin_path, idx_path
from firstlight.data.partial_file import PartialFile

_MOST_TOKENS = 2**31 - 1
"""Lengths of sequences are stored as int32."""
_HELD_TOKENS = 1 << 20
"""Tokens that are collected before they are converted and written together."""


class IndexedWriter:
    """A context manager: `add` tokens, `end_sequence`, `end_document`; the files appear when it ends well.

    Memory: 4 bytes for each sequence and 8 for each document, and the tokens of the last few calls, which must not
    change meanwhile. An exception inside leaves no file behind.
    """

    def __init__(self, prefix: Path, dtype: np.dtype[Any]) -> None:
        self.prefix = prefix
        self.dtype = dtype.newbyteorder("<")
        self.num_tokens = 0
        self._code = TOKEN_TYPES.index(self.dtype.str.replace("|", "<")) + 1
        self._lengths = array("i")
        self._document_indices = array("q", [0])
        self._open_length = 0
        self._held: list[NDArray[Any]] = []
        self._num_held = 0

    def __enter__(self) -> "IndexedWriter":
        self._bin = PartialFile(bin_path(self.prefix))
        self._idx = PartialFile(idx_path(self.prefix))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._bin.discard()
            self._idx.discard()

    @property
    def has_open_sequence(self) -> bool:
        """Whether tokens were added since a sequence or document last ended."""
        return self._open_length > 0

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
            self._write_held()

    def end_sequence(self) -> None:
        """End the sequence being written; without tokens, it is an empty one."""
        self._lengths.append(self._open_length)
        self._open_length = 0

    def end_document(self) -> None:
        """End the document, and its last sequence if that has tokens. A document may have no sequence."""
        if self._open_length:
            self.end_sequence()
        self._document_indices.append(len(self._lengths))

    def drop_document(self) -> None:
        """Take back what was added since the last document ended."""
        self._write_held()
        num_sequences = self._document_indices[-1]
        num_tokens = self._open_length + sum(self._lengths[num_sequences:])
        del self._lengths[num_sequences:]
        self._open_length = 0
        self.num_tokens -= num_tokens
        self._bin.file.seek(self.num_tokens * self.dtype.itemsize)
        self._bin.file.truncate()

    def _write_held(self) -> None:
        if not self._held:
            return
        tokens = np.concatenate(self._held)
        self._held = []
        self._num_held = 0
        if tokens.dtype != self.dtype:
            tokens = self._convert(tokens)
        self._bin.file.write(tokens.data)

    def _convert(self, tokens: NDArray[Any]) -> NDArray[Any]:
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            low, high = tokens.min(), tokens.max()
            if low < limits.min or high > limits.max:
                raise InputError(f"{self.prefix}: ids from {low} to {high} do not fit {self.dtype}")
        return tokens.astype(self.dtype)

    def _finish(self) -> None:
        if self._document_indices[-1] != len(self._lengths) or self._open_length:
            raise ValueError(f"{self.prefix}: the last document was not ended")
        self._write_held()
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
        self._bin.publish()  # first, so that an .idx never stands beside a .bin that is not there
        self._idx.publish()
