"""Chance damage anywhere in a checkpoint: never loaded in silence, always the one before it, with the file named."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.checkpoint.state import State, blank, checkpointer, contents, is_state_of, save_last
from tests.unit.resilience.peers import on_ranks

OLD, NEW = 2, 4
Damage = Callable[[random.Random, bytes], bytes]


def flipped(source: random.Random, content: bytes) -> bytes:
    bit = source.randrange(8 * len(content))
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def cut(source: random.Random, content: bytes) -> bytes:
    return content[: source.randrange(len(content))]


@pytest.mark.parametrize(
    ("damage", "count"),
    [
        (flipped, 300),
        (cut, 100),
        pytest.param(flipped, 2000, marks=pytest.mark.slow),
        pytest.param(cut, 500, marks=pytest.mark.slow),
    ],
)
def test_no_damage_is_loaded_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Damage, count: int
) -> None:
    for step in (OLD, NEW):
        assert on_ranks(2, lambda peers, s=step: save_last(checkpointer(tmp_path, peers=peers), State(s))) == [None] * 2
    newest = tmp_path / f"step-{NEW:08d}"
    files = contents(newest)
    assert len(files) == 3
    source = random.Random(count)
    for number in range(count):
        # Each file in its turn: chosen by size, the manifest would hide the small ones.
        name = sorted(files)[number % len(files)]
        (newest / name).write_bytes(damage(source, files[name]))
        caplog.clear()
        assert checkpointer(tmp_path).restore(state := blank()) == OLD, (number, name)
        assert is_state_of(state, OLD)
        (said,) = caplog.messages
        assert str(newest / name) in said
        if not name.endswith(".json"):
            assert re.search(r"BLAKE3 \w{64}, expected \w{64}|has \d+ bytes, expected \d+", said)
        (newest / name).write_bytes(files[name])
    assert checkpointer(tmp_path).restore(blank()) == NEW
