"""What a MindRecord file says about itself: its columns, its pages, and the other files of the same set.

A file begins with u64 little-endian L and L bytes of JSON in a block of `header_size` bytes; page p of `page_size`
bytes starts at `header_size + p * page_size`. Only what is checked here is believed.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from firstlight.base.errors import InputError

LENGTH = struct.Struct("<Q")
"""Before the header and before each record: the bytes that follow."""
ARRAY_TYPES = ("int32", "int64", "float32", "float64")
TYPES = (*ARRAY_TYPES, "string", "bytes")
VERSION = "3.0"
_READABLE_VERSIONS = ("2.0", "3.0")
_MOST_HEADER_BYTES = 128 << 20
_MOST_DIMS = 32
_PAGE_TYPES = {"BLOB_DATA": True, "RAW_DATA": False}


@dataclass(frozen=True, kw_only=True)
class Column:
    """The type of a column, one of TYPES, and the shape of an array; one of its entries may be -1 (any size).

    Raises ValueError when these do not go together.
    """

    type: str
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise ValueError(f"type {self.type!r} is not one of {', '.join(TYPES)}")
        if self.shape is None:
            return
        if self.type not in ARRAY_TYPES:
            raise ValueError(f"type {self.type} has a shape")
        if not 1 <= len(self.shape) <= _MOST_DIMS or sum(size == -1 for size in self.shape) > 1:
            raise ValueError(f"shape {list(self.shape)} is not 1 to {_MOST_DIMS} sizes, one of which may be -1")
        if any(size == 0 or size < -1 for size in self.shape):
            raise ValueError(f"shape {list(self.shape)} has a size that is neither positive nor -1")

    @property
    def is_blob(self) -> bool:
        """Whether values lie in the pages of bytes (arrays, bytes), not in those of records (numbers, strings)."""
        return self.shape is not None or self.type == "bytes"


@dataclass(frozen=True, kw_only=True)
class Page:
    """`used` of the page's bytes hold records; a page of blobs has those of rows `first_row` to `end_row`.

    row_groups: (id, offset of its first record); written for other readers, never needed to read.
    """

    page_id: int
    is_blob: bool
    used: int
    first_row: int = 0
    end_row: int = 0
    row_groups: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of the file that is `shard_names[shard]`."""

    header_size: int
    page_size: int
    shard: int
    shard_names: tuple[str, ...]
    columns: Mapping[str, Column]
    blob_columns: tuple[str, ...]
    pages: tuple[Page, ...]
    index_fields: tuple[str, ...] = ()
    description: str = ""

    def to_bytes(self) -> bytes:
        """The length and the JSON, as MindSpore reads them; may be longer than `header_size`."""
        columns = {
            name: {"type": column.type} | ({} if column.shape is None else {"shape": list(column.shape)})
            for name, column in self.columns.items()
        }
        schema = {"desc": self.description, "blob_fields": list(self.blob_columns), "schema": columns}
        content = {
            "version": VERSION,
            "header_size": self.header_size,
            "page_size": self.page_size,
            "shard_id": self.shard,
            "shard_addresses": list(self.shard_names),
            "schema": [schema],
            "index_fields": [{"index_field": name, "schema_id": 0} for name in self.index_fields] or None,
            "page": [self._page_object(page, self._number(page)) for page in self.pages] or None,
            "statistics": None,  # MindSpore ends the process when the key is absent
        }
        text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        return LENGTH.pack(len(text)) + text

    def _number(self, page: Page) -> int:
        return page.row_groups[0][0] if page.is_blob and page.row_groups else 0

    def _page_object(self, page: Page, number: int) -> dict[str, Any]:
        return {
            "page_id": page.page_id,
            "shard_id": self.shard,
            "page_type": "BLOB_DATA" if page.is_blob else "RAW_DATA",
            "page_type_id": number,
            "page_size": page.used,
            "start_row_id": page.first_row,
            "end_row_id": page.end_row,
            "row_group_ids": [{"id": group, "offset": offset} for group, offset in page.row_groups],
        }


def refuse(path: Path, fault: str) -> NoReturn:
    """Raise InputError for a damaged file of a MindRecord set."""
    raise InputError(f"{path}: {fault[:500]}; the file is damaged or incomplete: copy it again or write it again")


def read_header(path: Path) -> Header:
    """The header of the MindRecord file at `path`, checked against its size. Raises InputError."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = _json_length(path, file.read(LENGTH.size), size)
            text = file.read(length)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; a MindRecord set is named by one of its files") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    try:
        content = _parse(text)
        header = _header(content)
        if header.header_size < LENGTH.size + length:
            raise ValueError(f"header_size {header.header_size} is less than the {LENGTH.size + length} bytes in it")
        _check_pages(header, size)
    except (ValueError, RecursionError) as error:
        refuse(path, f"the header cannot be used: {error}")
    return header


def _json_length(path: Path, prefix: bytes, size: int) -> int:
    if len(prefix) < LENGTH.size:
        refuse(path, f"{size} bytes are fewer than those of a MindRecord header")
    length = int(LENGTH.unpack(prefix)[0])
    if length > min(size - LENGTH.size, _MOST_HEADER_BYTES):
        refuse(path, f"a header of {length} bytes does not fit in a file of {size}; is it a MindRecord file?")
    return length


def _parse(text: bytes) -> dict[str, Any]:
    content = json.loads(text.decode(), object_pairs_hook=_unique)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _header(content: dict[str, Any]) -> Header:
    version = content.get("version")
    if version not in _READABLE_VERSIONS:
        raise ValueError(f"version {version!r} is not one of {', '.join(_READABLE_VERSIONS)}")
    names = tuple(_texts(content.get("shard_addresses"), "shard_addresses"))
    if not names or len(set(names)) < len(names) or any(Path(name).name != name or "\0" in name for name in names):
        raise ValueError("shard_addresses is not a list of different file names")
    shard = _whole(content, "shard_id", len(names) - 1)
    schemas = content.get("schema")
    if not isinstance(schemas, list) or len(schemas) != 1 or not isinstance(schemas[0], dict):
        raise ValueError("schema is not a list of one object")
    columns = _columns(schemas[0].get("schema"))
    blobs = tuple(_texts(schemas[0].get("blob_fields"), "blob_fields"))
    if sorted(blobs) != sorted(name for name, column in columns.items() if column.is_blob):
        raise ValueError(f"blob_fields {list(blobs)} are not the columns with a shape or of type bytes")
    return Header(
        header_size=_whole(content, "header_size"),
        page_size=_whole(content, "page_size"),
        shard=shard,
        shard_names=names,
        columns=columns,
        blob_columns=blobs,
        index_fields=tuple(_index_fields(content.get("index_fields"), columns)),
        pages=tuple(_page(page, shard) for page in _objects(content.get("page", ""), "page")),
    )


def _check_pages(header: Header, size: int) -> None:
    """Pages lie within the file, in ascending order; those of blobs hold every row once."""
    if header.page_size == 0:
        raise ValueError("page_size is 0")
    last, next_row = -1, 0
    for page in header.pages:
        if page.page_id <= last:
            raise ValueError(f"page {page.page_id} follows page {last}")
        end = header.header_size + page.page_id * header.page_size + page.used
        if page.used > header.page_size or end > size:
            raise ValueError(f"page {page.page_id} ends at byte {end}, outside of its place or of the {size} bytes")
        if page.is_blob:
            if page.first_row != next_row or page.end_row < next_row:
                raise ValueError(f"page {page.page_id} has rows {page.first_row} to {page.end_row} after {next_row}")
            next_row = page.end_row
        last = page.page_id


def _columns(schema: object) -> dict[str, Column]:
    if not isinstance(schema, dict) or not schema:
        raise ValueError("schema names no columns")
    columns = {}
    for name, column in schema.items():
        if not isinstance(column, dict):
            raise ValueError(f"column {name} is no object")
        shape = column.get("shape")
        is_shape = isinstance(shape, list) and all(type(size) is int for size in shape)
        if "shape" in column and not is_shape:
            raise ValueError(f"column {name}: shape is no list of integers")
        kind = column.get("type")
        try:
            columns[name] = Column(
                type=kind if isinstance(kind, str) else "", shape=None if shape is None else tuple(shape)
            )
        except ValueError as error:
            raise ValueError(f"column {name}: {error}") from None
    return columns


def _index_fields(fields: object, columns: Mapping[str, Column]) -> Iterable[str]:
    for field in _objects(fields, "index_fields"):
        name = field.get("index_field")
        if not isinstance(name, str) or name not in columns or columns[name].is_blob:
            raise ValueError(f"index field {name!r} is no column of numbers or strings")
        yield name


def _page(page: dict[str, Any], shard: int) -> Page:
    kind = page.get("page_type")
    if not isinstance(kind, str) or kind not in _PAGE_TYPES:
        raise ValueError(f"page_type {kind!r} is not one of {', '.join(_PAGE_TYPES)}")
    if _whole(page, "shard_id") != shard:
        raise ValueError(f"a page of shard {page['shard_id']} in shard {shard}")
    is_blob = _PAGE_TYPES[kind]
    return Page(
        page_id=_whole(page, "page_id", 2**31),
        is_blob=is_blob,
        used=_whole(page, "page_size"),
        first_row=_whole(page, "start_row_id") if is_blob else 0,
        end_row=_whole(page, "end_row_id") if is_blob else 0,
    )


def _whole(content: Mapping[str, Any], key: str, most: int = 2**40) -> int:
    value = content.get(key)
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{key} = {value!r} is no number from 0 to {most}")
    return value


def _objects(value: object, key: str) -> list[dict[str, Any]]:
    """A list of objects; MindSpore writes null for an empty one."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{key} is no list of objects")
    return value


def _texts(value: object, key: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{key} is no list of strings")
    return value
