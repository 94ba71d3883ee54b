"""A row of MindRecord as bytes: the blob record of its arrays and bytes, the raw record of its numbers and strings.

Blob record: for each column u64 big-endian size and content; a single column is its content alone, no column is four
zero bytes. Arrays of floats are little-endian, those of integers packed. Raw record: a MessagePack map.
What cannot be converted raises ValueError, with the name of the column.
"""

import struct
from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.data.message_pack import Scalar, pack_map, unpack_map
from firstlight.data.mindrecord_header import Column
from firstlight.data.packed_integers import pack_integers, unpack_integers

Value = NDArray[Any] | str | bytes | int | float
"""An array, or what a column without a shape holds."""

_SIZE = struct.Struct(">Q")
_NO_BLOB = bytes(4)
_NO_RAW: dict[str, Scalar] = {"id": 0}


def encode_blob(row: Mapping[str, object], columns: Mapping[str, Column], names: Iterable[str]) -> bytes:
    """The blob record of `row`: columns `names`, in this order."""
    contents = [_encode_field(name, row[name], columns[name]) for name in names]
    if not contents:
        return _NO_BLOB
    if len(contents) == 1:
        return contents[0]
    return b"".join(part for content in contents for part in (_SIZE.pack(len(content)), content))


def decode_blob(
    record: bytes, columns: Mapping[str, Column], names: tuple[str, ...], wanted: Container[str]
) -> dict[str, Value]:
    """Those columns of a blob record of columns `names` that are `wanted`. Arrays are new, and may be written to."""
    if not names:
        return {}
    view = memoryview(record)
    contents = [view] if len(names) == 1 else _split(view, len(names))
    fields = zip(names, contents, strict=True)
    return {name: _decode_field(name, content, columns[name]) for name, content in fields if name in wanted}


def encode_raw(row: Mapping[str, object], columns: Mapping[str, Column]) -> bytes:
    """The raw record of `row`; a placeholder when no column is a number or a string."""
    scalars = {name: to_scalar(name, row[name], column) for name, column in columns.items() if not column.is_blob}
    return pack_map(scalars or _NO_RAW)


def decode_raw(record: bytes, columns: Mapping[str, Column]) -> dict[str, Value]:
    """All columns of numbers and strings."""
    names = {name for name, column in columns.items() if not column.is_blob}
    found = unpack_map(record)
    if set(found) != (names or set(_NO_RAW)):
        raise ValueError(f"it holds {sorted(found)}, not {sorted(names)}")
    return {name: to_scalar(name, found[name], columns[name]) for name in names}


def to_scalar(name: str, value: object, column: Column) -> Scalar:
    """The value of a column of numbers or strings as Python's own; a float is rounded to the column's type."""
    if column.type == "string":
        if isinstance(value, str):
            return value
    elif column.type in ("float32", "float64"):
        if isinstance(value, float | int | np.floating | np.integer) and not isinstance(value, bool):
            with np.errstate(over="ignore"):
                return float(np.dtype(column.type).type(value))
    elif isinstance(value, int | np.integer) and not isinstance(value, bool):
        limits = np.iinfo(column.type)
        if not limits.min <= value <= limits.max:
            raise ValueError(f"{name} = {value} does not fit {column.type}")
        return int(value)
    raise ValueError(f"{name} is {type(value).__name__}, which is no {column.type}")


def _encode_field(name: str, value: object, column: Column) -> bytes:
    if column.shape is None:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        raise ValueError(f"{name} is {type(value).__name__}, not bytes")
    array = np.asarray(value)
    _check_shape(name, array.shape, column.shape)
    dtype = np.dtype(column.type)
    is_empty_list = array.size == 0 and not isinstance(value, np.ndarray)
    if array.dtype.kind not in ("iu" if dtype.kind == "i" else "iuf") and not is_empty_list:
        raise ValueError(f"{name} holds {array.dtype}, which is no {column.type}")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(dtype.newbyteorder("<")).tobytes()
    if array.size:
        limits = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise ValueError(f"{name} holds numbers from {low} to {high}, which do not fit {column.type}")
    return pack_integers(array.astype(np.int64))


def _check_shape(name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    fits = len(found) == len(shape) and all(size in (-1, real) for size, real in zip(shape, found, strict=True))
    if not fits:
        raise ValueError(f"{name} has shape {list(found)}, not {list(shape)}")


def _split(view: memoryview, count: int) -> list[memoryview]:
    contents, position = [], 0
    for _ in range(count):
        start = position + _SIZE.size
        if start > len(view):
            raise ValueError(f"{len(view)} bytes are too few for {count} columns")
        position = start + int(_SIZE.unpack_from(view, position)[0])
        if position > len(view):
            raise ValueError(f"a column ends at byte {position} of {len(view)}")
        contents.append(view[start:position])
    if position != len(view):
        raise ValueError(f"{len(view) - position} bytes follow the last of {count} columns")
    return contents


def _decode_field(name: str, content: memoryview, column: Column) -> Value:
    if column.shape is None:
        return bytes(content)
    dtype = np.dtype(column.type)
    try:
        if dtype.kind == "i":
            return unpack_integers(content, dtype).reshape(column.shape)
        return np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype).reshape(column.shape)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
