"""The part of MessagePack that MindRecord uses: one flat map from names to integers, floats and strings.

Written here rather than taken from the `msgpack` package: of the format's kinds only these four occur, and a record
with any other one is damaged, so a reader that knows no more is the stricter one, at the cost of a page of code.
https://github.com/msgpack/msgpack/blob/master/spec.md
"""

import struct
from collections.abc import Mapping

Scalar = int | float | str

_STRINGS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
_MAPS = {0xDE: ">H", 0xDF: ">I"}
_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_INTEGERS = [(code, struct.Struct(_NUMBERS[code])) for code in (0xCC, 0xCD, 0xCE, 0xCF, 0xD0, 0xD1, 0xD2, 0xD3)]


def pack_map(values: Mapping[str, Scalar]) -> bytes:
    """The map with its keys sorted; integers in their shortest form, floats as float32 where that is exact.

    Raises ValueError for an integer beyond 64 bits, or a string that UTF-8 cannot hold.
    """
    parts = [_pack_length(len(values), 0x80, 15, _MAPS)]
    for key in sorted(values):
        parts += [_pack_string(key), _pack_scalar(values[key])]
    return b"".join(parts)


def unpack_map(packed: bytes) -> dict[str, Scalar]:
    """The map that `packed` is. Raises ValueError when it is anything else, or more than one map."""
    count, position = _unpack_length(packed, 0, 0x80, 15, _MAPS)
    if 2 * count > len(packed) - position:
        raise ValueError(f"a map of {count} entries does not fit in {len(packed)} bytes")
    values: dict[str, Scalar] = {}
    for _ in range(count):
        key, position = _unpack_string(packed, position)
        if key in values:
            raise ValueError(f"the key {key!r} occurs twice")
        values[key], position = _unpack_scalar(packed, position)
    if position != len(packed):
        raise ValueError(f"{len(packed) - position} bytes follow the map")
    return values


def _pack_scalar(value: Scalar) -> bytes:
    if isinstance(value, str):
        return _pack_string(value)
    if isinstance(value, float):
        return _pack_float(value)
    if -32 <= value <= 127:
        return struct.pack(">b", value)
    codes = _INTEGERS[:4] if value >= 0 else _INTEGERS[4:]
    for code, form in codes:
        try:
            return bytes([code]) + form.pack(value)
        except struct.error:
            continue
    raise ValueError(f"{value} does not fit in 64 bits")


def _pack_float(value: float) -> bytes:
    try:
        short = struct.pack(">f", value)
    except OverflowError:
        short = b""
    if short and struct.unpack(">f", short)[0] == value:
        return b"\xca" + short
    return b"\xcb" + struct.pack(">d", value)


def _pack_string(text: str) -> bytes:
    content = text.encode()
    return _pack_length(len(content), 0xA0, 31, _STRINGS) + content


def _pack_length(length: int, short: int, most: int, longer: Mapping[int, str]) -> bytes:
    if length <= most:
        return bytes([short | length])
    for code, form in longer.items():
        if length < 256 ** struct.calcsize(form):
            return bytes([code]) + struct.pack(form, length)
    raise ValueError(f"a length of {length} does not fit in 32 bits")


def _byte(packed: bytes, position: int) -> int:
    if position >= len(packed):
        raise ValueError("the map ends too early")
    return packed[position]


def _take(packed: bytes, position: int, form: str) -> tuple[int | float, int]:
    end = position + struct.calcsize(form)
    if end > len(packed):
        raise ValueError("the map ends too early")
    value: int | float = struct.unpack_from(form, packed, position)[0]
    return value, end


def _unpack_length(packed: bytes, position: int, short: int, most: int, longer: Mapping[int, str]) -> tuple[int, int]:
    code = _byte(packed, position)
    if short <= code <= short + most:
        return code - short, position + 1
    if code not in longer:
        kind = "a string" if short == 0xA0 else "a map"
        raise ValueError(f"byte {position} is {code:#04x}, which does not begin {kind}")
    length, position = _take(packed, position + 1, longer[code])
    return int(length), position


def _unpack_string(packed: bytes, position: int) -> tuple[str, int]:
    length, position = _unpack_length(packed, position, 0xA0, 31, _STRINGS)
    if length > len(packed) - position:
        raise ValueError(f"a string of {length} bytes does not fit in {len(packed) - position}")
    return packed[position : position + length].decode(), position + length


def _unpack_scalar(packed: bytes, position: int) -> tuple[Scalar, int]:
    code = _byte(packed, position)
    if code <= 0x7F or code >= 0xE0:
        return _take(packed, position, ">b")
    if code in _NUMBERS:
        return _take(packed, position + 1, _NUMBERS[code])
    return _unpack_string(packed, position)
