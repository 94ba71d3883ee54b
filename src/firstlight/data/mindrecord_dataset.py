"""Rows of a MindRecord set as samples for pretraining."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.mindrecord_reader import MindRecordReader
from firstlight.data.samples import Samples, require_numbers

_LARGEST_INT32 = 2**31 - 1
_LEFT_OUT = -100
"""In a column of labels: no loss here, as MindFormers and PyTorch have it."""


class MindRecordDataset:
    """Sample k is row k: `sequence_length + 1` tokens of `tokens_column`, or `sequence_length` and their labels.

    Labels are the tokens one place later; those at the end of a row may be -100, and are left out of the loss.
    Raises InputError when the set has no rows or not these columns.
    """

    def __init__(
        self,
        reader: MindRecordReader,
        sequence_length: int,
        *,
        tokens_column: str = "input_ids",
        labels_column: str | None = None,
    ) -> None:
        """`reader` must have been opened with these columns; with no more of them it reads no more than needed."""
        self.sequence_length = sequence_length
        self.files = reader.files
        self._reader = reader
        self._tokens_column = tokens_column
        self._labels_column = labels_column
        if not len(reader):
            raise InputError(f"{reader.path} has no rows; name a MindRecord set that has some")
        for name in (tokens_column, labels_column):
            column = reader.schema.get(name) if name in reader.columns else None
            if name is not None and (column is None or column.shape is None or column.type not in ("int32", "int64")):
                raise InputError(
                    f"{reader.path}: {name} is no column of integer arrays; its columns are {', '.join(reader.columns)}"
                )
        self._fill(0, np.empty(sequence_length + 1, np.int32))  # so that a wrong length is told at once

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """Write sample `numbers[i]` into row `rows[i]`; a row is one document.

        Raises IndexError when there is no such sample, InputError when a row is damaged or has another length.
        """
        require_numbers(numbers, len(self), self._reader.path)
        for number, row in zip(numbers.tolist(), rows.tolist(), strict=True):
            out.num_real[row] = self._fill(number, out.tokens[row])
        out.begins[rows] = False
        out.begins[rows, 0] = True

    def _fill(self, k: int, out: NDArray[np.int32]) -> int:
        """Write row k into `out`, int32 [sequence_length + 1]; returns how many of its tokens are real."""
        row = self._reader.row(k)
        if self._labels_column is None:
            out[:] = self._tokens(k, row[self._tokens_column], self._tokens_column, self.sequence_length + 1)
            return len(out)
        tokens = self._tokens(k, row[self._tokens_column], self._tokens_column, self.sequence_length)
        labels = self._tokens(k, row[self._labels_column], self._labels_column, self.sequence_length)
        is_real = labels != _LEFT_OUT
        num_labels = int(np.count_nonzero(is_real))
        if not is_real[:num_labels].all():
            raise InputError(
                f"row {k} of {self._reader.path}: {self._labels_column} is {_LEFT_OUT} before its end; "
                "only the end of a row can be left out of the loss"
            )
        if not np.array_equal(labels[: min(num_labels, len(tokens) - 1)], tokens[1 : num_labels + 1]):
            raise InputError(
                f"row {k} of {self._reader.path}: {self._labels_column} are not the {self._tokens_column} one place "
                f"later; rows of sequence_length + 1 {self._tokens_column} need no labels"
            )
        out[0] = tokens[0]
        out[1 : num_labels + 1] = labels[:num_labels]
        out[num_labels + 1 :] = 0
        return num_labels + 1

    def _tokens(self, k: int, values: object, name: str, length: int) -> NDArray[np.int32]:
        tokens = np.asarray(values).ravel()
        if len(tokens) != length:
            has_labels = self._labels_column is not None
            raise InputError(
                f"row {k} of {self._reader.path} has {len(tokens)} {name}, but sequence_length {self.sequence_length} "
                f"{'with' if has_labels else 'without'} labels needs {length}"
            )
        if tokens.dtype.itemsize > 4 and len(tokens) and int(np.abs(tokens).max()) > _LARGEST_INT32:
            raise InputError(f"row {k} of {self._reader.path} holds an id in {name} that does not fit 32 bits")
        return tokens.astype(np.int32)


def open_mindrecord(
    path: Path, sequence_length: int, *, tokens_column: str, labels_column: str | None
) -> MindRecordDataset:
    """The set that `path` belongs to. Raises InputError when it is missing, damaged, or has not these columns."""
    columns = [tokens_column] if labels_column is None else [tokens_column, labels_column]
    reader = MindRecordReader.open(path, columns)
    return MindRecordDataset(reader, sequence_length, tokens_column=tokens_column, labels_column=labels_column)
