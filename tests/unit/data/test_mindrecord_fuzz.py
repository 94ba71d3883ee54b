"""Damaged headers and indexes of MindRecord: each gives InputError or the right rows, never anything else."""

import random
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.base.errors import InputError
from firstlight.data.mindrecord_header import Column
from firstlight.data.mindrecord_reader import MindRecordReader
from firstlight.data.mindrecord_writer import MindRecordWriter

NUM_MUTATIONS = 500
NUM_MUTATIONS_SLOW = 5000
MOST_SECONDS = 5.0
"""For one file; a sound one takes a few milliseconds."""

SCHEMA = {
    "id": Column(type="int64"),
    "input_ids": Column(type="int32", shape=(-1,)),
    "name": Column(type="string"),
    "weights": Column(type="float64", shape=(7,)),
}
NUMBERS = [
    b"-1",
    b"0",
    b"1",
    b"3",
    b"2147483648",
    b"9223372036854775807",
    b"99999999999999999999999",
    b"1e999",
    b"null",
]


def rows() -> list[dict[str, Any]]:
    return [
        {"id": k, "input_ids": np.arange(k, k + 300, dtype=np.int32), "name": f"row {k}", "weights": np.full(7, k / 3)}
        for k in range(60)
    ]


def read(path: Path) -> list[dict[str, Any]] | None:
    """All rows, or None for an InputError, which names the file."""
    try:
        with MindRecordReader.open(path) as reader:
            return list(reader)
    except InputError as error:
        return None if str(path) in str(error) else []


def is_right(found: list[dict[str, Any]] | None, expected: list[dict[str, Any]]) -> bool:
    """Whether reading gave exactly the expected rows, or the error."""
    return found is None or (
        len(found) == len(expected)
        and all(
            row.keys() == right.keys() and all(np.array_equal(row[name], right[name]) for name in right)
            for row, right in zip(found, expected, strict=True)
        )
    )


def mutate(content: bytes, end: int, choice: random.Random) -> bytes:
    """One damage within the first `end` bytes."""
    place = choice.randrange(end)
    kind = choice.randrange(7)
    if kind == 0:
        return content[:place] + bytes([content[place] ^ 1 << choice.randrange(8)]) + content[place + 1 :]
    if kind == 1:
        return (
            content[:place]
            + bytes([choice.choice([0, 0x7F, 0x80, 0xFF, choice.randrange(256)])])
            + content[place + 1 :]
        )
    if kind == 2:
        return content[:place]
    if kind == 3:
        length = choice.randrange(1, 64)
        return content[:place] + choice.randbytes(length) + content[place + length :]
    if kind == 4:
        return content[:place] + choice.randbytes(choice.randrange(1, 9)) + content[place:]
    if kind == 5:
        return content[:place] + content[place + choice.randrange(1, 9) :]
    numbers = list(re.finditer(rb"\d+", content[:end]))
    number = choice.choice(numbers) if numbers else None
    return content if number is None else content[: number.start()] + choice.choice(NUMBERS) + content[number.end() :]


def fuzz(folder: Path, count: int) -> None:
    expected = rows()
    path = folder / "x"
    with MindRecordWriter(path, SCHEMA, page_size=32 << 10, header_size=16 << 10, index_fields=["id"]) as writer:
        for row in expected:
            writer.add(row)
    whole = {name: (folder / name).read_bytes() for name in ("x", "x.db")}
    json_end = 8 + int.from_bytes(whole["x"][:8], "little")
    num_refused = 0
    for seed in range(count):
        choice = random.Random(seed)
        name = choice.choice(["x", "x.db"])
        damaged = mutate(whole[name], json_end if name == "x" else len(whole[name]), choice)
        (folder / name).write_bytes(damaged)
        start = time.monotonic()
        found = read(path)
        assert time.monotonic() - start < MOST_SECONDS, f"seed {seed}: {name}"
        assert is_right(found, expected), f"seed {seed}: wrong rows from a damaged {name}"
        num_refused += found is None
        (folder / name).write_bytes(whole[name])
    assert count // 4 < num_refused < count  # some damage is to parts that nobody reads
    assert is_right(read(path), expected)
    assert read(path) is not None


def test_damaged_files(tmp_path):
    fuzz(tmp_path / "set", NUM_MUTATIONS)


@pytest.mark.slow
def test_many_damaged_files(tmp_path):
    fuzz(tmp_path / "set", NUM_MUTATIONS_SLOW)


@pytest.mark.parametrize("count", [NUM_MUTATIONS, pytest.param(NUM_MUTATIONS_SLOW, marks=pytest.mark.slow)])
def test_damaged_records_give_rows_or_an_error(tmp_path, count):
    # Nothing in the format can tell a wrong token from a right one: here only the way that it fails is checked.
    path = tmp_path / "x"
    with MindRecordWriter(path, SCHEMA, page_size=32 << 10, header_size=16 << 10) as writer:
        for row in rows():
            writer.add(row)
    whole = path.read_bytes()
    for seed in range(count):
        choice = random.Random(seed)
        pages = mutate(whole[16 << 10 :], len(whole) - (16 << 10), choice)
        path.write_bytes(whole[: 16 << 10] + pages)
        found = read(path)
        assert found is None or len(found) == len(rows())
