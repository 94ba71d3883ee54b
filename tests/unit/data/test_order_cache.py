"""Orders kept on disk: found again, told from others, never believed when damaged."""

import logging
import multiprocessing
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.base.log import get_logger
from firstlight.data import order_cache
from firstlight.data.gpt_order import GptOrder
from firstlight.data.indexed import IndexedDataset
from firstlight.data.indexed_writer import IndexedWriter
from firstlight.data.order_cache import ARRAYS, cached_order, open_order

KEY = "0" * 64
REQUEST: dict[str, Any] = {"num_samples": 120, "sequence_length": 16, "seed": 5}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(get_logger(), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


@pytest.fixture
def indexed(tmp_path: Path) -> IndexedDataset:
    return write(tmp_path / "set", 0)


def write(prefix: Path, seed: int) -> IndexedDataset:
    with IndexedWriter(prefix, np.dtype(np.uint16)) as writer:
        for length in np.random.default_rng(seed).integers(1, 30, 60):
            writer.add(np.arange(length))
            writer.end_document()
    return IndexedDataset.open(prefix)


def assert_same(one: GptOrder, other: GptOrder) -> None:
    assert one.extra_token == other.extra_token
    for name in ARRAYS:
        assert getattr(one, name).dtype == getattr(other, name).dtype
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def must_not_build() -> GptOrder:
    raise AssertionError("the order was built again")


def builder(order: GptOrder, builds: list[int]) -> Callable[[], GptOrder]:
    def build() -> GptOrder:
        builds.append(1)
        return order

    return build


def test_an_order_is_found_again(indexed: IndexedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = open_order(indexed, range(len(indexed)), **REQUEST)
    assert_same(open_order(indexed, range(len(indexed)), **REQUEST, cache=tmp_path / "cache"), order)
    monkeypatch.setattr(order_cache, "build_order", lambda *_, **__: must_not_build())
    again = open_order(indexed, range(len(indexed)), **REQUEST, cache=tmp_path / "cache")
    assert_same(again, order)
    assert not again.document_index.flags.writeable
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".bin"]


def test_the_same_data_elsewhere_and_an_equal_plan_share_an_entry(indexed: IndexedDataset, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    open_order(indexed, range(10, 40), num_samples=3, sequence_length=16, seed=5, cache=cache)
    for suffix in (".bin", ".idx"):
        shutil.copy(f"{indexed.prefix}{suffix}", tmp_path / f"copy{suffix}")
    copy = IndexedDataset.open(tmp_path / "copy")
    open_order(copy, range(10, 40), num_samples=4, sequence_length=16, seed=5, cache=cache)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [{"seed": 6}, {"sequence_length": 17}, {"num_samples": 400}, {"extra_token": 0}, "bounds", "data", "format"],
)
def test_what_changes_the_order_changes_the_entry(
    indexed: IndexedDataset, tmp_path: Path, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    open_order(indexed, range(50), **REQUEST, cache=cache)
    if change == "data":
        indexed = write(tmp_path / "set", 1)
    if change == "format":
        monkeypatch.setattr(order_cache, "FORMAT_VERSION", 2)
    bounds = range(49) if change == "bounds" else range(50)
    request = REQUEST | (change if isinstance(change, dict) else {})
    found = open_order(indexed, bounds, **request, cache=cache)
    assert len(list(cache.iterdir())) == 2
    assert_same(found, open_order(indexed, bounds, **request))


def test_an_order_without_samples_is_kept(indexed: IndexedDataset, tmp_path: Path) -> None:
    for _ in range(2):
        order = open_order(indexed, range(0), **REQUEST, cache=tmp_path / "cache")
        assert [getattr(order, name).shape for name in ARRAYS] == [(0,), (1, 2), (0,)]


def test_every_damage_is_noticed(indexed: IndexedDataset, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    order = open_order(indexed, range(60), **REQUEST)
    cached_order(tmp_path / "cache", KEY, lambda: order)
    path = next((tmp_path / "cache").iterdir())
    whole = path.read_bytes()
    choice = random.Random(0)
    for number in range(600):
        place, kind = choice.randrange(len(whole)), number % 4
        damaged = {
            0: whole[:place] + bytes([whole[place] ^ 1 << choice.randrange(8)]) + whole[place + 1 :],
            1: whole[:place],
            2: whole + choice.randbytes(1 + place % 5),
            3: whole[:place] + choice.randbytes(3) + whole[place:],
        }[kind]
        path.write_bytes(damaged)
        log.clear()
        builds: list[int] = []
        found = cached_order(tmp_path / "cache", KEY, builder(order, builds))
        assert_same(found, order)
        assert builds == [1], (number, place, kind)
        assert "is damaged" in log.text
        assert path.read_bytes() == whole


def test_another_order_under_this_name_is_not_taken(indexed: IndexedDataset, tmp_path: Path) -> None:
    order = open_order(indexed, range(60), **REQUEST)
    cached_order(tmp_path, KEY, lambda: order)
    other = "1" * 64
    (tmp_path / f"order-{KEY}.bin").rename(tmp_path / f"order-{other}.bin")
    builds: list[int] = []
    cached_order(tmp_path, other, builder(order, builds))
    assert builds == [1]


@pytest.mark.parametrize("fault", ["file", "full"])
def test_a_cache_that_cannot_be_used_is_a_line_in_the_log(
    indexed: IndexedDataset,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    folder = tmp_path / "cache"
    if fault == "file":
        folder.touch()
    else:

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("firstlight.data.order_cache.os.fsync", full)
    order = open_order(indexed, range(60), **REQUEST, cache=folder)
    assert_same(order, open_order(indexed, range(60), **REQUEST))
    assert "cannot be written" in log.text
    assert folder.is_file() or list(folder.iterdir()) == []


def _use(prefix: Path, cache: Path, rounds: int) -> None:
    indexed = IndexedDataset.open(prefix)
    for number in range(rounds):
        assert_same(
            open_order(indexed, range(60), num_samples=120, sequence_length=16, seed=number, cache=cache),
            open_order(indexed, range(60), num_samples=120, sequence_length=16, seed=number),
        )


def test_ranks_at_once_do_not_harm_each_other(indexed: IndexedDataset, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_use, args=(indexed.prefix, tmp_path / "cache", 20)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0, 0]
    names = [path.name for path in (tmp_path / "cache").iterdir()]
    assert len(names) == 20
    assert not any("partial" in name for name in names)
