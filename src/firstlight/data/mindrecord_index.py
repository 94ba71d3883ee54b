"""The SQLite file `<name>.db` beside each MindRecord file: where the records of each row lie.

A damaged one may make SQLite find rows without end, values of any type or size, and the same row twice; what is read
is bounded by the size of the file, and every place is checked before it is used.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.mindrecord_header import LENGTH, Column, Header, refuse

_SELECT = (
    "SELECT ROW_ID, PAGE_ID_RAW, PAGE_OFFSET_RAW, PAGE_OFFSET_RAW_END, "
    "PAGE_ID_BLOB, PAGE_OFFSET_BLOB, PAGE_OFFSET_BLOB_END FROM INDEXES"
)
_CREATE = (
    "CREATE TABLE INDEXES( ROW_ID INT NOT NULL, PAGE_ID_RAW INT NOT NULL, PAGE_OFFSET_RAW INT NOT NULL, "
    "PAGE_OFFSET_RAW_END INT NOT NULL, ROW_GROUP_ID INT NOT NULL, PAGE_ID_BLOB INT NOT NULL, "
    "PAGE_OFFSET_BLOB INT NOT NULL, PAGE_OFFSET_BLOB_END INT NOT NULL"
)
_SQL_TYPES = {"int32": "INTEGER", "int64": "INTEGER", "float32": "REAL", "float64": "REAL", "string": "TEXT"}
_FIXED_COLUMNS = 8
_BLOCK = 1 << 14
_LEAST_ROW_BYTES = 8  # SQLite's own: a record's header has a byte for each column
_INSTRUCTIONS_PER_CHECK = 100_000
_INSTRUCTIONS_PER_ROW = 100

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordPlaces:
    """First bytes in the file, and sizes with the 8 bytes before each record: int64 [rows] each."""

    raw_starts: Numbers
    raw_sizes: Numbers
    blob_starts: Numbers
    blob_sizes: Numbers

    def __len__(self) -> int:
        return len(self.raw_starts)


def index_path(path: Path) -> Path:
    """The index file of the MindRecord file at `path`."""
    return Path(f"{path}.db")


def read_index(path: Path, header: Header) -> RecordPlaces:
    """The places of the rows of the MindRecord file at `path`, all of them inside of its pages. Raises InputError."""
    database = index_path(path)
    if not database.is_file():
        raise InputError(f"{database} does not exist; a MindRecord file needs its .db beside it: copy it too")
    size = database.stat().st_size
    try:
        connection = sqlite3.connect(f"file:{quote(str(database))}?mode=ro&immutable=1", uri=True)
        try:
            _bound_work(connection, size)
            _check_name(connection, database, path.name)
            table = _read_table(connection, database, most_rows=size // _LEAST_ROW_BYTES)
        finally:
            connection.close()
    except (sqlite3.Error, MemoryError, UnicodeDecodeError) as error:
        refuse(database, f"SQLite cannot read it: {error}")
    return _checked_places(database, table, header)


class IndexWriter:
    """Fills the index of the MindRecord file `name` in an empty file; `finish` must be called before it is published.

    Without a journal: the file is whole or thrown away.
    """

    def __init__(self, database: Path, name: str, index_fields: Sequence[tuple[str, Column]]) -> None:
        self._connection = sqlite3.connect(database, isolation_level=None)
        fields = [
            f'INC_{k} INT, "{field}_0" {_SQL_TYPES[column.type]}' for k, (field, column) in enumerate(index_fields)
        ]
        key = ",".join(["ROW_ID", *(f"INC_{k}" for k in range(len(index_fields)))])
        marks = ",".join("?" * (_FIXED_COLUMNS + 2 * len(index_fields)))
        self._insert = f"INSERT INTO INDEXES VALUES({marks})"
        for statement in (
            "PRAGMA journal_mode=OFF",
            "PRAGMA synchronous=OFF",
            "BEGIN",
            "CREATE TABLE SHARD_NAME(NAME TEXT NOT NULL)",
            ",".join([_CREATE, *fields, f" PRIMARY KEY({key}))"]),
        ):
            self._connection.execute(statement)
        self._connection.execute("INSERT INTO SHARD_NAME VALUES(?)", (name,))

    def add(self, rows: Iterable[Sequence[object]]) -> None:
        """Insert rows of the eight fixed columns, and for each index field 0 and its value."""
        self._connection.executemany(self._insert, rows)

    def finish(self) -> None:
        """Write all of it to the file and close it."""
        self._connection.execute("COMMIT")
        self._connection.close()

    def discard(self) -> None:
        """Close it; what was written is of no use unless `finish` was called before."""
        self._connection.close()


def _bound_work(connection: sqlite3.Connection, size: int) -> None:
    """Let SQLite stop after work, and refuse values, that a sound file of `size` bytes cannot ask for."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(size, 1 << 16))
    most = _INSTRUCTIONS_PER_ROW * (size // _LEAST_ROW_BYTES) // _INSTRUCTIONS_PER_CHECK + 10
    checks = iter(range(most))
    connection.set_progress_handler(lambda: int(next(checks, None) is None), _INSTRUCTIONS_PER_CHECK)
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")


def _check_name(connection: sqlite3.Connection, database: Path, name: str) -> None:
    """The .db is that of `name`, and its tables are plain tables, not views or programs that look like them."""
    kinds = connection.execute(
        "SELECT name, type, sql FROM sqlite_master WHERE name IN ('INDEXES', 'SHARD_NAME')"
    ).fetchmany(3)
    is_plain = all(kind == "table" and str(sql).upper().startswith("CREATE TABLE") for _, kind, sql in kinds)
    if sorted(str(table) for table, _, _ in kinds) != ["INDEXES", "SHARD_NAME"] or not is_plain:
        refuse(database, "the tables INDEXES and SHARD_NAME are not in it")
    names = connection.execute("SELECT NAME FROM SHARD_NAME").fetchmany(2)
    if names != [(name,)]:
        refuse(database, f"it belongs to {names}, not to {name}; files of a MindRecord set cannot be renamed")


def _read_table(connection: sqlite3.Connection, database: Path, *, most_rows: int) -> Numbers:
    """ROW_ID and the six places of each row, int64 [rows, 7], by ROW_ID."""
    cursor = connection.execute(_SELECT)
    blocks: list[Numbers] = [np.empty((0, 7), np.int64)]
    num_rows = 0
    while rows := cursor.fetchmany(_BLOCK):
        num_rows += len(rows)
        if num_rows > most_rows:
            refuse(database, f"it has more rows than its size allows, {most_rows}")
        if set(map(type, chain.from_iterable(rows))) != {int}:
            refuse(database, "a place in INDEXES is not an integer")
        blocks.append(np.array(rows, np.int64))
    table = np.concatenate(blocks)
    if (table[1:, 0] <= table[:-1, 0]).any():
        table = table[np.argsort(table[:, 0], kind="stable")]
    if (table[:, 0] != np.arange(len(table))).any():
        refuse(database, f"the ROW_IDs of its {len(table)} rows are not 0 to {len(table) - 1}")
    return table


def _checked_places(database: Path, table: Numbers, header: Header) -> RecordPlaces:
    blob_pages = [page for page in header.pages if page.is_blob]
    num_rows = blob_pages[-1].end_row if blob_pages else 0
    if num_rows != len(table):
        refuse(database, f"it has {len(table)} rows, but the pages of {header.shard_names[header.shard]} {num_rows}")
    ids = np.array([page.page_id for page in blob_pages], np.int64)
    counts = np.array([page.end_row - page.first_row for page in blob_pages], np.int64)
    wrong = np.flatnonzero(np.repeat(ids, counts) != table[:, 4])
    if len(wrong):
        refuse(database, f"row {int(wrong[0])} is in page {int(table[wrong[0], 4])}, not where the header has it")
    raw_starts, raw_sizes = _checked_records(database, table[:, 1:4], header, is_blob=False)
    blob_starts, blob_sizes = _checked_records(database, table[:, 4:7], header, is_blob=True)
    return RecordPlaces(raw_starts=raw_starts, raw_sizes=raw_sizes, blob_starts=blob_starts, blob_sizes=blob_sizes)


def _checked_records(database: Path, places: Numbers, header: Header, *, is_blob: bool) -> tuple[Numbers, Numbers]:
    """(first bytes, sizes) of records at (page, offset, end), which lie in used parts of pages and do not overlap."""
    if len(places) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    pages = [page for page in header.pages if page.is_blob == is_blob]
    ids = np.array([page.page_id for page in pages] or [-1], np.int64)
    used = np.array([page.used for page in pages] or [0], np.int64)
    page, offset, end = places.T
    slot = np.minimum(np.searchsorted(ids, page), len(ids) - 1)
    # Written without a sum: a hostile offset would overflow it.
    is_wrong = (ids[slot] != page) | (offset < 0) | (end < LENGTH.size) | (end > used[slot])
    wrong = np.flatnonzero(is_wrong | (offset > end - LENGTH.size))
    if len(wrong):
        row = int(wrong[0])
        refuse(database, f"row {row} lies at {places[row].tolist()} (page, offset, end), outside of the used pages")
    starts = header.header_size + header.page_size * page + offset
    sizes = end - offset
    order = np.argsort(starts, kind="stable")
    overlaps = np.flatnonzero(starts[order][1:] < (starts + sizes)[order][:-1])
    if len(overlaps):
        refuse(database, f"rows {int(order[overlaps[0]])} and {int(order[overlaps[0] + 1])} overlap")
    return starts, sizes
