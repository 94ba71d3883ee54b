"""Reads MindSpore's `.ckpt` files: an index of the entries first, then one tensor at a time.

Every length is held to the file before it is used; a damaged file gives one InputError. With a checksum at its end, the
file is held to that as well, in a pass over its bytes.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.checkpoint.blocks import bytes_of
from firstlight.convert.mindspore_ckpt import (
    CONTENT,
    CRC_BYTES,
    CRC_MARK,
    DIMS,
    DTYPES,
    HASH_TABLE,
    TAG,
    TENSOR,
    TENSOR_TYPE,
    TEXT_ENCODING,
    TEXT_TYPE,
    VALUE,
)
from firstlight.convert.source import StoredTensor
from firstlight.convert.wire import BYTES, DamagedMessage, Field, fields, integers, read_bytes

_BLOCK_BYTES = 1 << 22
_MAX_NAME_BYTES = 1 << 16
_MAX_TEXT_BYTES = 1 << 24
_MAX_DIMS = 32
_MAX_SIZE = 1 << 48


@dataclass(kw_only=True)
class _Entry:
    """A parameter, or a part of one: `parts` are the places of its content."""

    name: str
    type: str
    dims: tuple[int, ...]
    parts: list[tuple[int, int]] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return sum(end - begin for begin, end in self.parts)


class MindSporeCkpt:
    """An indexed `.ckpt`: `tensors` by name in the order of the file, `texts` beside them, `has_crc` as it was found.

    Raises InputError when the file cannot be read, is torn, damaged or encrypted, or holds what is not supported.
    """

    def __init__(self, path: Path) -> None:
        self.place = path
        self.files = (path,)
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                end = _checked_end(file, path, size)
                self.has_crc = end != size
                self._entries = _entries(file, end)
                self.texts = {name: _text(file, one) for name, one in self._entries.items() if one.type == TEXT_TYPE}
            self.tensors: Mapping[str, StoredTensor] = {
                name: _stored(one) for name, one in self._entries.items() if one.type != TEXT_TYPE
            }
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
        except DamagedMessage as error:
            raise InputError(
                f"{path} is no MindSpore checkpoint, or it is torn, damaged or encrypted: {error}"
            ) from None

    def read(self, name: str) -> Tensor:
        """The tensor `name`. Raises InputError when the file has changed or cannot be read."""
        stored, entry = self.tensors[name], self._entries[name]
        out = torch.empty(stored.shape, dtype=stored.dtype)
        target = bytes_of(out)
        try:
            with self.place.open("rb") as file:
                for begin, end in entry.parts:
                    file.seek(begin)
                    if file.readinto(target[: end - begin]) != end - begin:
                        raise InputError(f"{self.place} has become shorter while it was read; copy it again")
                    target = target[end - begin :]
        except OSError as error:
            raise InputError(f"{self.place} cannot be read: {error.strerror or error}") from None
        if stored.dtype == torch.bool and bool((out.view(torch.uint8) > 1).any()):
            raise InputError(f"{self.place}: {name} is Bool, but holds other bytes than 0 and 1")
        return out


def _checked_end(file: BinaryIO, path: Path, size: int) -> int:
    """Where the entries end, after the checksum was compared if there is one."""
    end = size - CRC_BYTES
    if end < 0:
        return size
    file.seek(end)
    trailer = file.read(CRC_BYTES)
    if not trailer.startswith(CRC_MARK):
        return size
    expected = int.from_bytes(trailer[len(CRC_MARK) :], "big")
    file.seek(0)
    found, left = 0, end
    while left:
        block = file.read(min(_BLOCK_BYTES, left))
        if not block:
            raise DamagedMessage(f"it ended at byte {end - left}")
        found, left = zlib.crc32(block, found), left - len(block)
    if found != expected:
        raise InputError(
            f"{path} is damaged: its CRC-32 is {found:#010x}, the file says {expected:#010x}; copy it again"
        )
    return end


def _entries(file: BinaryIO, end: int) -> dict[str, _Entry]:
    found: dict[str, _Entry] = {}
    last = None
    for value in fields(file, 0, end):
        if value.number != VALUE or value.wire_type != BYTES:
            raise DamagedMessage(f"field {value.number} where an entry is expected")
        entry = _entry(file, value)
        known = found.setdefault(entry.name, entry)
        if known is entry:
            last = entry
            continue
        if known is not last:
            raise DamagedMessage(f"two parameters are called {entry.name}")
        if (entry.dims, entry.type) != (known.dims, known.type):
            raise DamagedMessage(f"the pieces of {entry.name} are of different shape or type")
        known.parts += entry.parts
    return found


def _entry(file: BinaryIO, value: Field) -> _Entry:
    name: str | None = None
    tensor: Field | None = None
    for part in fields(file, value.begin, value.end):
        if part.number == TAG and name is None:
            name = _name(read_bytes(file, part, limit=_MAX_NAME_BYTES))
        elif part.number == TENSOR and part.wire_type == BYTES and tensor is None:
            tensor = part
        elif part.number == HASH_TABLE:
            raise DamagedMessage(f"{name or 'a parameter'} is a hash table, which is not supported")
        else:
            raise DamagedMessage(f"field {part.number} of an entry at byte {value.begin}")
    if not name or tensor is None:
        raise DamagedMessage(f"an entry without name or tensor at byte {value.begin}")
    return _tensor(file, name, tensor)


def _tensor(file: BinaryIO, name: str, tensor: Field) -> _Entry:
    dims: list[int] = []
    type_name: str | None = None
    content: Field | None = None
    for part in fields(file, tensor.begin, tensor.end):
        if part.number == DIMS:
            dims += integers(file, part)
        elif part.number == TENSOR_TYPE and type_name is None:
            type_name = _name(read_bytes(file, part, limit=_MAX_NAME_BYTES))
        elif part.number == CONTENT and part.wire_type == BYTES and content is None:
            content = part
        else:
            raise DamagedMessage(f"field {part.number} of {name}")
    if type_name is None or (type_name not in DTYPES and type_name != TEXT_TYPE):
        raise DamagedMessage(f"{name} is of type {type_name}; known are {', '.join(DTYPES)} and {TEXT_TYPE}")
    if len(dims) > _MAX_DIMS or any(not 0 <= size <= _MAX_SIZE for size in dims):
        raise DamagedMessage(f"{name} has the shape {dims[:_MAX_DIMS]}")
    parts = [] if content is None else [(content.begin, content.end)]
    return _Entry(name=name, type=type_name, dims=tuple(dims), parts=parts)


def _stored(entry: _Entry) -> StoredTensor:
    dtype, shape = DTYPES[entry.type], entry.dims
    if shape == (0,) and entry.num_bytes == dtype.itemsize:
        shape = ()  # how older versions wrote a scalar
    if math.prod(shape) * dtype.itemsize != entry.num_bytes:
        raise DamagedMessage(
            f"{entry.name} has {entry.num_bytes} bytes, but is {entry.type} of shape {list(entry.dims)}"
        )
    return StoredTensor(shape=shape, dtype=dtype)


def _text(file: BinaryIO, entry: _Entry) -> str:
    if entry.num_bytes > _MAX_TEXT_BYTES or entry.dims != (0,):
        raise DamagedMessage(f"{entry.name} is a text of {entry.num_bytes} bytes and shape {list(entry.dims)}")
    content = bytearray()
    for begin, end in entry.parts:
        file.seek(begin)
        content += file.read(end - begin)
    try:
        return content.decode(TEXT_ENCODING)
    except UnicodeDecodeError:
        raise DamagedMessage(f"{entry.name} is no text") from None


def _name(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise DamagedMessage("a name that is not UTF-8") from None
