"""Integer arrays as MindRecord stores them: each element in the fewest of 1, 2, 4 or 8 bytes that hold it.

u32 big-endian count; two bits of width code for each element, the first in the highest bits of the first byte, unused
codes 0; then the elements, signed little-endian, of 1 << code bytes each.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COUNT = struct.Struct(">I")
_SHIFTS = np.array([6, 4, 2, 0], np.uint8)
_TYPES = tuple(np.dtype(name) for name in ("<i1", "<i2", "<i4", "<i8"))
_MOST = 2**32 - 1


def pack_integers(values: NDArray[Any]) -> bytes:
    """The packed form of `values`, any integers that int64 holds, flattened in C order."""
    flat = np.ascontiguousarray(values, np.int64).ravel()
    if len(flat) > _MOST:
        raise ValueError(f"{len(flat)} elements are more than the {_MOST} that the format can count")
    codes = np.zeros(len(flat), np.uint8)
    for narrow in _TYPES[:3]:
        limits = np.iinfo(narrow)
        codes += (flat < limits.min) | (flat > limits.max)
    ends = np.cumsum(np.left_shift(1, codes, dtype=np.int64))
    elements = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    for code, dtype in enumerate(_TYPES):
        chosen = np.flatnonzero(codes == code)
        places = (ends[chosen] - dtype.itemsize)[:, None] + np.arange(dtype.itemsize)
        elements[places] = flat[chosen].astype(dtype).view(np.uint8).reshape(-1, dtype.itemsize)
    quads = np.zeros((-(-len(flat) // 4), 4), np.uint8)
    quads.ravel()[: len(flat)] = codes
    code_bytes: NDArray[np.uint8] = np.bitwise_or.reduce(quads << _SHIFTS, axis=1)
    return _COUNT.pack(len(flat)) + code_bytes.tobytes() + elements.tobytes()


def unpack_integers(packed: bytes | memoryview, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The elements [n] in `dtype`, int32 or int64. Raises ValueError when `packed` is not one whole array of it.

    Memory is bounded by the size of `packed`: each element takes a byte of it at least.
    """
    if len(packed) < _COUNT.size:
        raise ValueError(f"{len(packed)} bytes are too few for a packed integer array")
    (count,) = _COUNT.unpack_from(packed)
    first = _COUNT.size + -(-count // 4)
    if first + count > len(packed):
        raise ValueError(f"{count} packed integers do not fit in {len(packed)} bytes")
    content = np.frombuffer(packed, np.uint8)
    every_code = ((content[_COUNT.size : first, None] >> _SHIFTS) & 3).ravel()
    codes = every_code[:count]
    ends = np.cumsum(np.left_shift(1, codes, dtype=np.int64))
    elements = content[first:]
    if every_code[count:].any() or (int(ends[-1]) if count else 0) != len(elements):
        raise ValueError(f"the widths of {count} packed integers do not add up to {len(elements)} bytes")
    widest = int(codes.max()) if count else 0
    if _TYPES[widest].itemsize > dtype.itemsize:
        raise ValueError(f"a packed integer of {_TYPES[widest].itemsize} bytes in a column of {dtype}")
    if count and int(codes.min()) == widest:
        return elements.view(_TYPES[widest]).astype(dtype)
    values = np.empty(count, dtype)
    for code, narrow in enumerate(_TYPES[: widest + 1]):
        chosen = np.flatnonzero(codes == code)
        places = (ends[chosen] - narrow.itemsize)[:, None] + np.arange(narrow.itemsize)
        values[chosen] = elements[places].view(narrow).ravel()
    return values
