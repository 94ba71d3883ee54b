"""Texts from Parquet files, with pyarrow where it is installed."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError
from firstlight.data.byte_source import open_bytes
from firstlight.data.faults import BadDocumentError
from firstlight.data.json_text import checked_texts

_ROWS = 1024
_CHUNK = 1 << 20


def parquet_rows(
    path: Path, place: str, column: str, on_bytes: Callable[[bytes], object]
) -> Iterator[list[str] | BadDocumentError]:
    """The text or list of texts in `column` of each row, or what is wrong with it.

    `on_bytes` sees the whole file before the first row. Raises InputError when pyarrow or the column is missing,
    BadDocumentError when the file is not Parquet or damaged.
    """
    pyarrow = import_pyarrow(place, "pyarrow")
    parquet = import_pyarrow(place, "pyarrow.parquet")
    show_all_bytes(path, on_bytes)
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            require_column(file.schema_arrow.names, column, place)
            for batch in file.iter_batches(batch_size=_ROWS, columns=[column]):
                for value in batch.column(0):
                    number += 1
                    yield texts_of_value(value, column, f"{place}:{number}")
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadDocumentError(f"{place}:{number + 1}: not a readable row of Parquet: {reason}") from None


def import_pyarrow(place: str, module: str) -> Any:
    """pyarrow, or a part of it. Raises InputError, saying what it is needed for, when it is not installed."""
    try:
        return importlib.import_module(module)  # an optional package
    except ImportError:
        raise InputError(f"{place} is read with the package pyarrow, which is missing: pip install pyarrow") from None


def show_all_bytes(path: Path, on_bytes: Callable[[bytes], object]) -> None:
    """Let `on_bytes` see a file that pyarrow will read."""
    with open_bytes(path, on_bytes) as handle:
        while handle.read(_CHUNK):
            pass


def require_column(names: Sequence[str], column: str, place: str) -> None:
    """Raise InputError when there is no such column."""
    if column not in names:
        raise InputError(
            f'{place} has no column "{column}" but {", ".join(map(repr, names))}; name one with --json-key'
        )


def texts_of_value(value: Any, column: str, place: str) -> list[str] | BadDocumentError:
    """The text or texts of a pyarrow scalar, or what is wrong with it."""
    try:
        return checked_texts(value.as_py(), column, place)
    except BadDocumentError as fault:
        return fault
    except UnicodeDecodeError as error:
        return BadDocumentError(f"{place}: byte {error.start} of the text is not {error.encoding}")
