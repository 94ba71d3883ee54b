"""The compiled builders and their numpy twins are equal; blends are compared in test_blend.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.data import native
from firstlight.data.gpt_order import GptOrder, build_order
from firstlight.data.shuffle import shuffle

needs_extension = pytest.mark.skipif(native.COMPILED is None, reason="the extension is not built")


@needs_extension
@given(
    size=st.integers(0, 3000),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["int32", "uint32", "int64", "int16"]),
)
@settings(max_examples=150, deadline=None)
def test_shuffles_are_equal_and_so_is_what_follows(size: int, seed: int, dtype: str) -> None:
    ours, numpys = np.random.RandomState(seed), np.random.RandomState(seed)
    for _ in range(2):
        one, other = np.arange(size).astype(dtype), np.arange(size).astype(dtype)
        shuffle(ours, one)
        numpys.shuffle(other)
        np.testing.assert_array_equal(one, other)
    assert ours.randint(0, 1 << 30) == numpys.randint(0, 1 << 30)


@needs_extension
def test_a_part_of_an_array_is_shuffled_in_place() -> None:
    one, other = np.arange(100_000, dtype=np.int32), np.arange(100_000, dtype=np.int32)
    shuffle(np.random.RandomState(3), one[:70_001])
    np.random.RandomState(3).shuffle(other[:70_001])
    np.testing.assert_array_equal(one, other)


@needs_extension
@pytest.mark.parametrize("num_samples", [None, 100, 3000, 3400])
def test_orders_are_equal(num_samples: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).integers(0, 30, 2000).astype(np.int32)

    def built() -> GptOrder:
        return build_order(lengths, range(5, 1990), num_samples=num_samples, sequence_length=16, seed=5)

    compiled = built()
    monkeypatch.setattr(native, "COMPILED", None)
    plain = built()
    for name in ("document_index", "sample_index", "shuffle_index"):
        np.testing.assert_array_equal(getattr(compiled, name), getattr(plain, name))
        assert getattr(compiled, name).dtype == getattr(plain, name).dtype


@needs_extension
def test_lengths_may_lie_anywhere() -> None:
    """In the .idx file they begin at byte 34."""
    lengths = np.random.default_rng(0).integers(0, 30, 200).astype(np.int32)
    unaligned = np.frombuffer(b"ab" + lengths.tobytes(), np.uint8)[2:].view(np.int32)
    orders = [
        build_order(values, range(200), num_samples=None, sequence_length=16, seed=5) for values in (lengths, unaligned)
    ]
    np.testing.assert_array_equal(orders[0].sample_index, orders[1].sample_index)


@needs_extension
def test_arguments_that_would_read_elsewhere_are_refused() -> None:
    compiled = native.COMPILED
    assert compiled is not None
    key, rows = np.zeros(624, np.uint32), np.zeros((3, 2), np.int32)
    with pytest.raises(ValueError, match="624 words"):
        compiled.shuffle(np.arange(4), key[:10].copy(), 0)
    with pytest.raises(ValueError, match="624 words"):
        compiled.shuffle(np.arange(4), key, 625)
    with pytest.raises(IndexError, match="outside of lengths"):
        compiled.sample_index(np.ones(3, np.int32), np.array([0, 3], np.int32), rows, 1, 1)
    with pytest.raises(ValueError, match="equally long"):
        compiled.blend(
            np.ones(2), np.ones(1, np.int64), np.ones(2, np.int64), 0, np.zeros(1, np.int16), np.zeros(1, np.int64)
        )


def test_the_log_says_which_way_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "COMPILED", None)
    assert native.describe().startswith("numpy builders")
    monkeypatch.setattr(native, "COMPILED", object())
    assert native.describe() == "compiled builders"
