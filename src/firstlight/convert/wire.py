"""Protobuf's wire format, as far as MindSpore's files use it: numbers of variable length, and fields with a length.

Source: protobuf's description of its encoding. Nothing here trusts a length: each is held to what is left.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}


class DamagedMessage(ValueError):
    """The bytes are no message; says what is wrong and at which byte."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a message: its number, wire type, and value: of a varint, or where its bytes begin and end."""

    number: int
    wire_type: int
    value: int = 0
    begin: int = 0
    end: int = 0


def fields(file: BinaryIO, begin: int, end: int) -> Iterator[Field]:
    """The fields of the message in bytes `begin` to `end` of `file`; contents are passed over, not read.

    The file may be moved between two fields. Raises DamagedMessage.
    """
    place = begin
    while place < end:
        file.seek(place)
        key, place = read_varint(file, place, end)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise DamagedMessage(f"field 0 at byte {place}")
        if wire_type == VARINT:
            value, place = read_varint(file, place, end)
            yield Field(number=number, wire_type=wire_type, value=value)
            continue
        if wire_type == BYTES:
            size, place = read_varint(file, place, end)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise DamagedMessage(f"wire type {wire_type} at byte {place}")
        if size > end - place:
            raise DamagedMessage(f"a field of {size} bytes at byte {place}, but only {end - place} are left")
        yield Field(number=number, wire_type=wire_type, begin=place, end=place + size)
        place += size


def read_varint(file: BinaryIO, place: int, end: int) -> tuple[int, int]:
    """The number at `place`, where the file stands, and the place after it. Raises DamagedMessage."""
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        byte = file.read(1) if place + count < end else b""
        if not byte:
            raise DamagedMessage(f"cut off in a number at byte {place}")
        value |= (byte[0] & 0x7F) << (7 * count)
        if byte[0] < 0x80:
            if value >= 1 << 64:
                break
            return value, place + count + 1
    raise DamagedMessage(f"a number of more than 64 bits at byte {place}")


def read_bytes(file: BinaryIO, field: Field, *, limit: int) -> bytes:
    """The content of a field of at most `limit` bytes. Raises DamagedMessage."""
    size = field.end - field.begin
    if field.wire_type != BYTES or size > limit:
        raise DamagedMessage(f"field {field.number} at byte {field.begin} is not of at most {limit} bytes")
    file.seek(field.begin)
    content = file.read(size)
    if len(content) != size:
        raise DamagedMessage(f"cut off at byte {field.begin + len(content)}")
    return content


def integers(file: BinaryIO, field: Field) -> list[int]:
    """The signed 64-bit numbers of a repeated field, packed or one by one. Raises DamagedMessage."""
    if field.wire_type == VARINT:
        return [_signed(field.value)]
    if field.wire_type != BYTES:
        raise DamagedMessage(f"field {field.number} holds no integers")
    found = []
    place = field.begin
    file.seek(place)
    while place < field.end:
        value, place = read_varint(file, place, field.end)
        found.append(_signed(value))
    return found


def varint(value: int) -> bytes:
    """A number that is not negative, encoded."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_key(number: int, size: int) -> bytes:
    """What stands before the content of a field of `size` bytes."""
    return varint(number << 3 | BYTES) + varint(size)


def bytes_field(number: int, content: bytes) -> bytes:
    """A field with its content."""
    return bytes_key(number, len(content)) + content


def integer_field(number: int, value: int) -> bytes:
    """A field of one number that is not negative."""
    return varint(number << 3 | VARINT) + varint(value)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
