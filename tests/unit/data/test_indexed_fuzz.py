"""Damaged Megatron data sets: InputError or tokens that lie where the index says; nothing else, and no memory."""

import random
import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from firstlight.base.errors import InputError
from firstlight.data.indexed import HEADER, IndexedDataset, bin_path, idx_path
from firstlight.data.indexed_facts import verify
from firstlight.data.indexed_writer import IndexedWriter

NUM_MUTATIONS = 5000
MOST_SECONDS = 2.0
"""For one set; a sound one takes about a millisecond."""
MOST_MEGABYTES = 200
NUMBERS = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**56, 2**62, 2**63 - 1]
FIELDS = {"version": (9, 8), "dtype": (17, 1), "sequences": (18, 8), "indices": (26, 8)}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    choice = np.random.default_rng(0)
    with IndexedWriter(tmp_path / "set", np.dtype(np.uint16)) as writer:
        for count in choice.integers(0, 4, 12):
            for length in choice.integers(0, 40, count):
                writer.add(choice.integers(0, 500, length))
                writer.end_sequence()
            writer.end_document()
    return tmp_path / "set"


def fields(whole: bytes) -> list[tuple[int, int]]:
    """(place, size) of a field of the header, a length, a pointer, a document index: one of each kind."""
    _, _, _, num_sequences, num_indices = HEADER.unpack(whole[: HEADER.size])
    pointers = HEADER.size + 4 * num_sequences
    documents = pointers + 8 * num_sequences
    return [
        *FIELDS.values(),
        *((HEADER.size + 4 * k, 4) for k in range(num_sequences)),
        *((pointers + 8 * k, 8) for k in range(num_sequences)),
        *((documents + 8 * k, 8) for k in range(num_indices)),
    ]


def mutate(whole: bytes, choice: random.Random, *, is_index: bool) -> bytes:
    """One damage: a bit, a byte, an end cut off or added, something put in or taken out, a field."""
    place = choice.randrange(len(whole))
    kind = choice.randrange(8 if is_index else 6)
    if kind == 0:
        return whole[:place] + bytes([whole[place] ^ 1 << choice.randrange(8)]) + whole[place + 1 :]
    if kind == 1:
        return whole[:place] + bytes([choice.randrange(256)]) + whole[place + 1 :]
    if kind == 2:
        return whole[:place]
    if kind == 3:
        return whole + choice.randbytes(choice.randrange(1, 40))
    if kind == 4:
        return whole[:place] + choice.randbytes(choice.randrange(1, 9)) + whole[place:]
    if kind == 5:
        return whole[:place] + whole[place + choice.randrange(1, 9) :]
    start, size = choice.choice(fields(whole))
    old = int.from_bytes(whole[start : start + size], "little")
    value = choice.choice([*NUMBERS, old + 1, old - 1]) & (1 << 8 * size) - 1
    return whole[:start] + struct.pack("<Q", value)[:size] + whole[start + size :]


def parsed(index: bytes, content: bytes) -> list[bytes]:
    """The bytes of every sequence, read in the plainest way from what the index says."""
    _, _, code, num_sequences, _ = HEADER.unpack(index[: HEADER.size])
    itemsize = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8, 7: 4, 8: 2}[code]
    lengths = struct.unpack_from(f"<{num_sequences}i", index, HEADER.size)
    pointers = struct.unpack_from(f"<{num_sequences}q", index, HEADER.size + 4 * num_sequences)
    return [content[place : place + size * itemsize] for place, size in zip(pointers, lengths, strict=True)]


def look(prefix: Path, index: bytes, content: bytes) -> bool:
    """Open, verify and read all; returns whether it could be opened."""
    start = time.monotonic()
    try:
        one = IndexedDataset.open(prefix)
        tokens = [one.tokens(sequence).tobytes() for sequence in range(len(one))]
    except InputError as error:
        if str(prefix) not in str(error):
            raise
        return False
    finally:
        assert time.monotonic() - start < MOST_SECONDS
    assert tokens == parsed(index, content)
    assert [len(part) for part in tokens] == (one.lengths * one.dtype.itemsize).tolist()
    assert len(one.document_indices) == 0 or one.document_indices[-1] == len(one)
    assert sum(map(len, tokens)) == one.num_tokens * one.dtype.itemsize
    return True


@pytest.mark.parametrize("path", [idx_path, bin_path], ids=["idx", "bin"])
def test_damaged_files(prefix: Path, path) -> None:
    index, content = idx_path(prefix).read_bytes(), bin_path(prefix).read_bytes()
    whole = path(prefix).read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    num_opened = 0
    for seed in range(NUM_MUTATIONS):
        damaged = mutate(whole, random.Random(seed), is_index=path is idx_path)
        path(prefix).write_bytes(damaged)
        pair = (damaged, content) if path is idx_path else (index, damaged)
        is_open = look(prefix, *pair)
        num_opened += is_open
        if path is bin_path:  # fewer bytes than the index needs are always noticed
            assert is_open == (len(damaged) >= len(content)), seed
    assert NUM_MUTATIONS // 100 < num_opened < NUM_MUTATIONS * 9 // 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEGABYTES << 10


def test_a_sound_set_stays_sound(prefix: Path) -> None:
    assert look(prefix, idx_path(prefix).read_bytes(), bin_path(prefix).read_bytes())
    assert verify(prefix).is_back_to_back
