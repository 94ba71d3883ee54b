"""Packed integers and MessagePack: the bytes that MindSpore writes, and back."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.data.message_pack import pack_map, unpack_map
from firstlight.data.packed_integers import pack_integers, unpack_integers

INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)
LIMITS = [127, 128, -128, -129, 32767, 32768, -32768, -32769, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1]
LIMITS += [2**63 - 1, -(2**63)]
LIMITS_PACKED = bytes.fromhex(
    "0000000e 1166bbf0 7f 8000 80 7fff ff7f 00800000 0080 ff7fffff ffffff7f 0000008000000000 00000080 "
    "ffffff7fffffffff ffffffffffffff7f 0000000000000080"
)


def test_packed_bytes_are_mindspores():
    assert pack_integers(np.array(LIMITS)) == LIMITS_PACKED
    assert pack_integers(np.array([604, 400, 3], np.int32)) == bytes.fromhex("00000003 50 5c02 9001 03")
    assert unpack_integers(LIMITS_PACKED, INT64).tolist() == LIMITS
    assert pack_integers(np.empty(0, np.int32)) == bytes(4)


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-40000, 40000)))
def test_packed_int64_come_back(values: list[int]):
    unpacked = unpack_integers(pack_integers(np.array(values, np.int64)), INT64)
    assert unpacked.dtype == INT64
    assert unpacked.tolist() == values


@given(st.lists(st.integers(-(2**31), 2**31 - 1)), st.sampled_from([0, 7, 15, 31]))
def test_packed_int32_come_back(values: list[int], shift: int):
    narrow = [value >> shift for value in values]
    unpacked = unpack_integers(pack_integers(np.array(narrow, np.int32)), INT32)
    assert unpacked.dtype == INT32
    assert unpacked.tolist() == narrow


@given(st.binary(max_size=40) | st.binary(max_size=24).map(lambda rest: bytes([0, 0, 0, len(rest) // 2]) + rest))
def test_any_bytes_are_an_array_or_refused(packed: bytes):
    try:
        values = unpack_integers(packed, INT32)
    except ValueError:
        return
    assert len(values) == int.from_bytes(packed[:4], "big")


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        ("0000", "too few"),
        ("ffffffff 00", "do not fit"),
        ("00000001 00", "do not fit"),
        ("00000001 40 01", "add up"),
        ("00000001 00 01 02", "add up"),
        ("00000001 01 01", "add up"),
        ("00000001 c0 0100000000000000", "8 bytes in a column of int32"),
    ],
)
def test_damaged_packed_integers_are_refused(packed: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        unpack_integers(bytes.fromhex(packed), INT32)


@given(
    st.dictionaries(
        st.text(max_size=40), st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=300), max_size=40
    )
)
def test_maps_come_back(values: dict[str, int | float | str]):
    unpacked = unpack_map(pack_map(values))
    assert list(unpacked) == sorted(values)
    for key, value in values.items():
        assert type(unpacked[key]) is type(value)
        is_nan = isinstance(value, float) and math.isnan(value)
        assert math.isnan(float(unpacked[key])) if is_nan else unpacked[key] == value


@pytest.mark.parametrize(
    ("value", "packed"),
    [
        (0, "00"),
        (127, "7f"),
        (-32, "e0"),
        (128, "cc80"),
        (256, "cd0100"),
        (65536, "ce00010000"),
        (2**32, "cf0000000100000000"),
        (-33, "d0df"),
        (-129, "d1ff7f"),
        (-32769, "d2ffff7fff"),
        (-(2**31) - 1, "d3ffffffff7fffffff"),
        (0.25, "ca3e800000"),
        (1 / 7, "cb3fc2492492492492"),
        (1e300, "cb7e37e43c8800759c"),
        ("é", "a2c3a9"),
        ("x" * 32, "d920" + "78" * 32),
        ("x" * 300, "da012c" + "78" * 300),
    ],
)
def test_scalars_take_their_shortest_form(value: int | float | str, packed: str):
    assert pack_map({"k": value}) == bytes.fromhex("81a16b" + packed)


def test_long_forms_are_read_and_written():
    text = "x" * 70000
    assert unpack_map(pack_map({"k": text})) == {"k": text}
    many = {f"{k:05d}": k for k in range(70000)}
    assert unpack_map(pack_map(many)) == many
    assert unpack_map(bytes.fromhex("df00000001 db00000001 6b d300000000 00000001")) == {"k": 1}


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        ("", "too early"),
        ("81", "does not fit"),
        ("dfffffffff a0", "does not fit"),
        ("dbffffffff", "does not begin a map"),
        ("81 01 01", "does not begin a string"),
        ("81 a16b c0", "does not begin a string"),
        ("81 a16b d3 00", "too early"),
        ("81 a16b db ffffffff", "does not fit"),
        ("81 a16b a1 ff", "utf-8"),
        ("82 a16b 01 a16b 02", "twice"),
        ("81 a16b 01 00", "follow"),
    ],
)
def test_damaged_maps_are_refused(packed: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        unpack_map(bytes.fromhex(packed))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_map_or_refused(packed: bytes):
    try:
        assert isinstance(unpack_map(packed), dict)
    except ValueError:
        return


def test_what_cannot_be_packed_is_refused():
    for value in (2**64, -(2**63) - 1, "\ud800"):
        with pytest.raises(ValueError, match=r"64 bits|surrogates"):
            pack_map({"k": value})
    assert struct.unpack(">f", pack_map({"k": math.inf})[-4:])[0] == math.inf
