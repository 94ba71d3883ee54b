"""Reads MindRecord sets, MindSpore's own format of rows, without MindSpore. The format: docs/reference/formats.md."""

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, count, takewhile
from pathlib import Path
from types import TracebackType

from firstlight.base.errors import InputError
from firstlight.data.mindrecord_header import LENGTH, Column, Header, read_header, refuse
from firstlight.data.mindrecord_index import RecordPlaces, read_index
from firstlight.data.mindrecord_record import Value, decode_blob, decode_raw

_MOST_SHARD_DIGITS = 6


class MindRecordReader:
    """The rows of all files of a set: those of the first file in order, then those of the next.

    `schema` has every column of the set, by name; `columns` are the names that rows are read with.
    A context manager, which closes the files; reading is safe from several threads.
    """

    def __init__(self, shards: Sequence["_Shard"], columns: tuple[str, ...]) -> None:
        self.schema: Mapping[str, Column] = shards[0].header.columns
        self.columns = columns
        self.path = shards[0].path
        self.files = tuple(shard.path for shard in shards)
        self._shards = shards
        self._ends = list(accumulate(len(shard.places) for shard in shards))

    @classmethod
    def open(cls, path: Path, columns: Sequence[str] | None = None) -> "MindRecordReader":
        """The set that the file `path` belongs to, or all files that are named `path` and a number.

        MindSpore's parallel writer makes each numbered file a set of its own; by their number they are read as one.
        Reads `columns` only, in this order; by default all, by name. Raises InputError when a file is missing or
        damaged, or a column is not there.
        """
        files = _existing_files(path)
        first = read_header(files[0])
        names = tuple(sorted(first.columns)) if columns is None else tuple(columns)
        unknown = [name for name in names if name not in first.columns]
        if unknown or not names or len(set(names)) < len(names):
            raise InputError(
                f"{files[0]}: columns {', '.join(names)} are not different ones of {', '.join(sorted(first.columns))}"
            )
        shards: list[_Shard] = []
        try:
            while files:
                shard_names = _set_of(files[0])
                for number, name in enumerate(shard_names):
                    shard = _Shard(files[0].with_name(name), names)
                    shards.append(shard)
                    shard.require_place(number, shard_names, first)
                files = [file for file in files if file.name not in shard_names]
        except BaseException:
            for shard in shards:
                shard.close()
            raise
        return cls(shards, names)

    def __enter__(self) -> "MindRecordReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; no row can be read any more."""
        for shard in self._shards:
            shard.close()

    def __len__(self) -> int:
        """The number of rows."""
        return self._ends[-1]

    def __iter__(self) -> Iterator[dict[str, Value]]:
        return (self.row(i) for i in range(len(self)))

    def row(self, i: int) -> dict[str, Value]:
        """Row i: new arrays of the column's dtype and shape, bytes, or Python's str, int and float.

        Raises IndexError when there is no such row, InputError when its bytes are damaged.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} is not one of the {len(self)} of {self.path}")
        shard = bisect_right(self._ends, i)
        return self._shards[shard].row(i - (self._ends[shard - 1] if shard else 0))


class _Shard:
    """One file of a set, open."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path = path
        self.header = read_header(path)
        self.places: RecordPlaces = read_index(path, self.header)
        self._columns = columns
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by close

    def require_place(self, number: int, shard_names: tuple[str, ...], first: Header) -> None:
        """Raise InputError unless this is file `number` of the set, with the columns that all have."""
        if self.header.shard != number or self.header.shard_names != shard_names:
            refuse(self.path, f"it is not file {number} of the set {', '.join(shard_names[:3])}")
        if self.header.columns != first.columns or self.header.blob_columns != first.blob_columns:
            refuse(self.path, "its columns are not those of the other files")

    def close(self) -> None:
        self._file.close()

    def row(self, k: int) -> dict[str, Value]:
        schema = self.header.columns
        values: dict[str, Value] = {}
        try:
            if any(schema[name].is_blob for name in self._columns):
                record = self._record(int(self.places.blob_starts[k]), int(self.places.blob_sizes[k]))
                values |= decode_blob(record, schema, self.header.blob_columns, self._columns)
            if not all(schema[name].is_blob for name in self._columns):
                values |= decode_raw(
                    self._record(int(self.places.raw_starts[k]), int(self.places.raw_sizes[k])), schema
                )
        except ValueError as error:
            refuse(self.path, f"row {k} cannot be read: {error}")
        return {name: values[name] for name in self._columns}

    def _record(self, start: int, size: int) -> bytes:
        content = os.pread(self._file.fileno(), size, start)
        if len(content) != size:
            raise ValueError(f"{len(content)} bytes at byte {start}, not {size}")
        (length,) = LENGTH.unpack_from(content)
        if length != size - LENGTH.size:
            raise ValueError(f"a record of {length} bytes in a place for {size - LENGTH.size} at byte {start}")
        return content[LENGTH.size :]


def _existing_files(path: Path) -> list[Path]:
    """`path` itself where it exists, or all files that are named `path` and a number, from 0 on."""
    if path.suffix == ".db":
        raise InputError(f"{path} is the index of a MindRecord file; name the file without .db")
    for digits in range(1, 0 if path.is_file() else _MOST_SHARD_DIGITS + 1):
        numbered = (Path(f"{path}{number:0{digits}d}") for number in count())
        if files := list(takewhile(Path.is_file, numbered)):
            return files
    return [path]


def _set_of(path: Path) -> tuple[str, ...]:
    """The names of the files of the set that `path` is one of."""
    header = read_header(path)
    if header.shard_names[header.shard] != path.name:
        raise InputError(
            f"{path}: was written as {header.shard_names[header.shard]}; files of a MindRecord set cannot be "
            "renamed: give it its name again"
        )
    return header.shard_names
