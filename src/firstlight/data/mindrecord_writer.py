"""Writes MindRecord sets that MindSpore reads, without MindSpore. The format: docs/reference/formats.md."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from firstlight.base.errors import InputError
from firstlight.data.mindrecord_header import LENGTH, Column, Header, Page
from firstlight.data.mindrecord_index import IndexWriter, index_path
from firstlight.data.mindrecord_record import encode_blob, encode_raw, to_scalar
from firstlight.data.partial_file import SUFFIX, PartialFile

HEADER_SIZE = 16 << 20
PAGE_SIZE = 32 << 20
_HEADER_SIZES = (16 << 10, 128 << 20)
_PAGE_SIZES = (32 << 10, 256 << 20)
_MOST_SHARDS = 1000
_COLUMN_NAME = re.compile(r"\w+", re.ASCII)
_BUFFER = 1 << 20
_ROWS_PER_INSERT = 1000


def shard_paths(path: Path, num_shards: int) -> list[Path]:
    """The files of a set: `path` alone, or `path` and a number of as many digits as the last one has."""
    if num_shards == 1:
        return [path]
    digits = len(str(num_shards - 1))
    return [Path(f"{path}{number:0{digits}d}") for number in range(num_shards)]


class MindRecordWriter:
    """A context manager: `add` rows; the files appear when it ends well. An exception inside leaves none of them.

    Row i is row i // num_shards of file i % num_shards; a set is read file by file, so with one file alone the order
    of reading is that of writing. Memory: a few MB for each file.
    """

    def __init__(
        self,
        path: Path,
        schema: Mapping[str, Column],
        *,
        num_shards: int = 1,
        page_size: int = PAGE_SIZE,
        header_size: int = HEADER_SIZE,
        index_fields: Sequence[str] = (),
        description: str = "",
    ) -> None:
        """`index_fields` are columns of numbers or strings that the .db holds too; none is needed.

        Raises InputError when the set cannot be described by a MindRecord header.
        """
        self.path = path
        self.num_rows = 0
        _check_range(path, "num_shards", num_shards, (1, _MOST_SHARDS))
        _check_range(path, "page_size", page_size, _PAGE_SIZES)
        if page_size % 4:
            raise InputError(f"{path}: page_size = {page_size} is no multiple of 4, as MindSpore wants")
        _check_range(path, "header_size", header_size, _HEADER_SIZES)
        _check_schema(path, schema, index_fields)
        self._paths = shard_paths(path, num_shards)
        self._headers = [
            Header(
                header_size=header_size,
                page_size=page_size,
                shard=number,
                shard_names=tuple(one.name for one in self._paths),
                columns=dict(schema),
                blob_columns=tuple(sorted(name for name, column in schema.items() if column.is_blob)),
                index_fields=tuple(index_fields),
                description=description,
                pages=(),
            )
            for number in range(num_shards)
        ]
        self._shards: list[_ShardWriter] = []

    def __enter__(self) -> "MindRecordWriter":
        try:
            for path, header in zip(self._paths, self._headers, strict=True):
                self._shards.append(_ShardWriter(path, header))
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row with a value for each column: an array or nested lists, bytes, str, int or float.

        Floats are rounded to the column's type. Raises InputError when a value does not fit its column, or the row
        does not fit in a page; the row is then not added.
        """
        try:
            self._shards[self.num_rows % len(self._shards)].add(row)
        except ValueError as error:
            raise InputError(f"{self.path}: row {self.num_rows} cannot be written: {error}") from None
        self.num_rows += 1

    def _finish(self) -> None:
        if not self.num_rows:
            raise InputError(f"{self.path}: no row was added, and MindSpore refuses a set without rows")
        for shard in self._shards:
            shard.finish()
        # An old index must not stand beside a new file: without one, the set is refused with a clear word.
        for path in self._paths:
            index_path(path).unlink(missing_ok=True)
        for shard in self._shards:
            shard.data.publish()
        for shard in self._shards:
            shard.database.publish()

    def _discard(self) -> None:
        for shard in self._shards:
            shard.discard()


class _PageWriter:
    """The page of one kind that records go to; `pages` are those before it."""

    def __init__(self, *, is_blob: bool) -> None:
        self.is_blob = is_blob
        self.page_id = -1
        self.used = 0
        self.pages: list[Page] = []
        self._pending = bytearray()
        self._row_groups: list[tuple[int, int]] = []
        self._first_row = 0

    def begin(self, page_id: int, row: int) -> None:
        """Go on in a new page, whose first record is that of `row`."""
        self.page_id, self.used, self._first_row, self._row_groups = page_id, 0, row, []

    def put(self, record: bytes, row_group: int) -> tuple[int, int]:
        """Append a record; returns its (offset, end) in the page."""
        offset = self.used
        if not self._row_groups or self._row_groups[-1][0] != row_group:
            self._row_groups.append((row_group, offset))
        self._pending += LENGTH.pack(len(record)) + record
        self.used += LENGTH.size + len(record)
        return offset, self.used

    def flush(self, data: PartialFile, header: Header) -> None:
        """Write what is pending to its place."""
        if self._pending:
            place = header.header_size + self.page_id * header.page_size + self.used - len(self._pending)
            data.file.seek(place)
            data.file.write(self._pending)
            self._pending = bytearray()

    @property
    def is_full(self) -> bool:
        """Whether enough is pending to be written."""
        return len(self._pending) >= _BUFFER

    def end(self, row: int) -> None:
        """Close the page, if there is one, before `row`."""
        if self.page_id >= 0:
            rows = (self._first_row, row) if self.is_blob else (0, 0)
            self.pages.append(
                Page(
                    page_id=self.page_id,
                    is_blob=self.is_blob,
                    used=self.used,
                    first_row=rows[0],
                    end_row=rows[1],
                    row_groups=tuple(self._row_groups),
                )
            )


class _ShardWriter:
    """One file of a set and its index, under their partial names."""

    def __init__(self, path: Path, header: Header) -> None:
        self._header = header
        self._num_rows = 0
        self._num_pages = 0
        self._row_group = -1
        self._blob = _PageWriter(is_blob=True)
        self._raw = _PageWriter(is_blob=False)
        self._inserts: list[tuple[object, ...]] = []
        self._index_columns = [(name, header.columns[name]) for name in header.index_fields]
        self._index: IndexWriter | None = None
        self.data = PartialFile(path)
        self.database = PartialFile(index_path(path))
        self._index = IndexWriter(Path(f"{index_path(path)}{SUFFIX}"), path.name, self._index_columns)

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row. Raises ValueError, and then has not changed."""
        columns = self._header.columns
        if row.keys() != columns.keys():
            raise ValueError(f"it has the columns {sorted(row)}, not {sorted(columns)}")
        blob = encode_blob(row, columns, self._header.blob_columns)
        raw = encode_raw(row, columns)
        largest = LENGTH.size + max(len(blob), len(raw))
        if largest > self._header.page_size:
            raise ValueError(
                f"it takes {largest} bytes, more than page_size {self._header.page_size}; set a larger one"
            )
        indexed = [part for name, column in self._index_columns for part in (0, to_scalar(name, row[name], column))]
        if self._turn_page(self._blob, blob):
            self._row_group += 1
        self._turn_page(self._raw, raw)
        raw_place = self._raw.put(raw, self._row_group)
        blob_place = self._blob.put(blob, self._row_group)
        self._inserts.append(
            (self._num_rows, self._raw.page_id, *raw_place, self._row_group, self._blob.page_id, *blob_place, *indexed)
        )
        self._num_rows += 1
        for page in (self._blob, self._raw):
            if page.is_full:
                page.flush(self.data, self._header)
        if len(self._inserts) >= _ROWS_PER_INSERT:
            self._insert()

    def finish(self) -> None:
        """Write the pages' ends, the header and the index to the disk."""
        for page in (self._blob, self._raw):
            page.flush(self.data, self._header)
            page.end(self._num_rows)
        self._write_header()
        self._insert()
        if self._index is not None:
            self._index.finish()
        self.data.finish()
        self.database.finish()

    def discard(self) -> None:
        """Remove what was not published."""
        if self._index is not None:
            self._index.discard()
        self.data.discard()
        self.database.discard()

    def _turn_page(self, page: _PageWriter, record: bytes) -> bool:
        """Begin a new page when `record` does not fit in the current one; returns whether it was begun."""
        if page.page_id >= 0 and page.used + LENGTH.size + len(record) <= self._header.page_size:
            return False
        page.flush(self.data, self._header)
        page.end(self._num_rows)
        page.begin(self._num_pages, self._num_rows)
        self._num_pages += 1
        return True

    def _insert(self) -> None:
        if self._index is not None:
            self._index.add(self._inserts)
        self._inserts = []

    def _write_header(self) -> None:
        pages = tuple(sorted([*self._blob.pages, *self._raw.pages], key=lambda page: page.page_id))
        content = replace(self._header, pages=pages).to_bytes()
        size = self._header.header_size
        if len(content) > size:
            raise InputError(
                f"{self.data.path}: the header of {len(pages)} pages takes {len(content)} bytes, but header_size is "
                f"{size}; set a larger header_size or page_size"
            )
        self.data.file.seek(0)
        self.data.file.write(content)


def _check_range(path: Path, name: str, value: int, limits: tuple[int, int]) -> None:
    if not limits[0] <= value <= limits[1]:
        raise InputError(f"{path}: {name} = {value} is not from {limits[0]} to {limits[1]}")


def _check_schema(path: Path, schema: Mapping[str, Column], index_fields: Sequence[str]) -> None:
    if not schema:
        raise InputError(f"{path}: a MindRecord set needs at least one column")
    for name in schema:
        if not _COLUMN_NAME.fullmatch(name):
            raise InputError(f"{path}: column {name!r} is not made of letters, digits and underscores alone")
    for name in index_fields:
        if name not in schema or schema[name].is_blob or list(index_fields).count(name) > 1:
            raise InputError(f"{path}: index field {name!r} is not one column of numbers or strings")
