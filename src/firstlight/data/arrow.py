"""Texts from Arrow files, which is what `datasets` saves, with pyarrow where it is installed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from firstlight.data.faults import BadDocumentError
from firstlight.data.parquet import import_pyarrow, require_column, show_all_bytes, texts_of_value

_FILE_MAGIC = b"ARROW1"


def arrow_rows(
    path: Path, place: str, column: str, on_bytes: Callable[[bytes], object]
) -> Iterator[list[str] | BadDocumentError]:
    """The text or list of texts in `column` of each row of an IPC stream or file, or what is wrong with it.

    `on_bytes` sees the whole file before the first row. Raises InputError when pyarrow or the column is missing,
    BadDocumentError when the file is not Arrow or damaged; whatever its bytes, nothing outside of them is read.
    """
    pyarrow = import_pyarrow(place, "pyarrow")
    ipc = import_pyarrow(place, "pyarrow.ipc")
    show_all_bytes(path, on_bytes)
    number = 0
    try:
        with ExitStack() as stack:
            for values in _batches(pyarrow, ipc, path, place, column, stack):
                for value in values:
                    number += 1
                    yield texts_of_value(value, column, f"{place}:{number}")
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadDocumentError(f"{place}:{number + 1}: not a readable row of Arrow: {reason}") from None


def _batches(pyarrow: Any, ipc: Any, path: Path, place: str, column: str, stack: ExitStack) -> Iterator[Any]:
    source = stack.enter_context(pyarrow.memory_map(str(path)))
    is_file = source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    source.seek(0)
    open_ = ipc.open_file if is_file else ipc.open_stream
    schema = open_(source).schema
    require_column(schema.names, column, place)
    source.seek(0)
    reader = open_(source, options=ipc.IpcReadOptions(included_fields=[schema.names.index(column)]))
    batches = (reader.get_batch(number) for number in range(reader.num_record_batches)) if is_file else reader
    for batch in batches:
        values = batch.column(0)
        _validate(pyarrow, values)
        yield values


def _validate(pyarrow: Any, values: Any) -> None:
    """Offsets of a damaged file may point anywhere. Text that is not UTF-8 is another matter, of its row alone."""
    as_bytes = {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}.get(values.type)
    (values if as_bytes is None else values.view(as_bytes)).validate(full=True)
