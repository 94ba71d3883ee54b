"""Texts from Parquet files, with pyarrow where it is installed."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

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
    try:
        pyarrow = importlib.import_module("pyarrow")  # an optional package
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(f"{place} is read with the package pyarrow, which is missing: pip install pyarrow") from None
    with open_bytes(path, on_bytes) as handle:
        while handle.read(_CHUNK):
            pass
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise InputError(
                    f'{place} has no column "{column}" but {", ".join(map(repr, file.schema_arrow.names))}; '
                    "name one with --json-key"
                )
            for batch in file.iter_batches(batch_size=_ROWS, columns=[column]):
                for value in batch.column(0):
                    number += 1
                    yield _texts(value, column, f"{place}:{number}")
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadDocumentError(f"{place}:{number + 1}: not a readable row of Parquet: {reason}") from None


def _texts(value: object, column: str, place: str) -> list[str] | BadDocumentError:
    try:
        return checked_texts(value.as_py(), column, place)  # type: ignore[attr-defined]
    except BadDocumentError as fault:
        return fault
    except UnicodeDecodeError as error:
        return BadDocumentError(f"{place}: byte {error.start} of the text is not {error.encoding}")
