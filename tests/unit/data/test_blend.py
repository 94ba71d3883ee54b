"""Blends: any place of them, in either way, and never more of a source than there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data import blend, native
from firstlight.data.blend import BlendedDataset, BlendOrder, normalise, sizes_to_build, target_sizes

WEIGHTS = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9)


class Constant:
    """`size` samples of one token."""

    sequence_length = 1

    def __init__(self, token: int, size: int) -> None:
        self.token = token
        self.size = size

    def __len__(self) -> int:
        return self.size

    def fill(self, k: int, out: NDArray[np.int64]) -> int:
        if not 0 <= k < self.size:
            raise IndexError(k)
        out[:] = [self.token, k]
        return 2


def plain(weights: list[float], size: int) -> list[tuple[int, int]]:
    """Megatron's loop, word for word."""
    counts = [0] * len(weights)
    chosen = []
    for t in range(size):
        lags = [weight * max(t, 1) - count for weight, count in zip(weights, counts, strict=True)]
        source = lags.index(max(lags))
        chosen.append((source, counts[source]))
        counts[source] += 1
    return chosen


@given(weights=WEIGHTS, size=st.integers(0, 300), block=st.integers(1, 90), is_compiled=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_blend_is_megatrons_loop_from_any_place(
    weights: list[float], size: int, block: int, is_compiled: bool
) -> None:
    shares = normalise(weights)
    expected = plain(shares.tolist(), size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "_BLOCK", block)
        if not is_compiled:
            patch.setattr(native, "COMPILED", None)
        places = np.random.default_rng(size).permutation(size).tolist()
        order = BlendOrder(shares, size)
        assert [order.locate(t) for t in places] == [expected[t] for t in places]
        sources, numbers = order.arrays()
    assert list(zip(sources.tolist(), numbers.tolist(), strict=True)) == expected


@given(weights=WEIGHTS, size=st.integers(1, 2000))
@settings(max_examples=100, deadline=None)
def test_no_source_gives_more_than_is_built(weights: list[float], size: int) -> None:
    shares = normalise(weights)
    sources, _ = BlendOrder(shares, size).arrays()
    taken = np.bincount(sources, minlength=len(weights)).tolist()
    assert all(count <= target for count, target in zip(taken, target_sizes(shares, size), strict=True))
    assert all(
        target < built for target, built in zip(target_sizes(shares, size), sizes_to_build(shares, size), strict=True)
    )


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=7), is_compiled=st.booleans())
@settings(max_examples=100, deadline=None)
def test_an_exhaustive_blend_reads_everything_once(sizes: list[int], is_compiled: bool) -> None:
    if not sum(sizes):
        return
    with pytest.MonkeyPatch.context() as patch:
        if not is_compiled:
            patch.setattr(native, "COMPILED", None)
        dataset = BlendedDataset(
            [Constant(token, size) for token, size in enumerate(sizes)],
            BlendOrder(normalise(sizes), sum(sizes), sizes),
        )
        out = np.empty(2, np.int64)
        read = []
        for k in range(len(dataset)):
            dataset.fill(k, out)
            read.append(tuple(out.tolist()))
    assert sorted(read) == [(token, k) for token, size in enumerate(sizes) for k in range(size)]


def test_both_ways_are_equal_over_many_blocks() -> None:
    if native.COMPILED is None:
        pytest.skip("the extension is not built")
    weights = normalise([0.1, 0.2, 0.7, 1.3, 3.1])
    compiled = BlendOrder(weights, 150_000).arrays()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "COMPILED", None)
        for one, other in zip(compiled, BlendOrder(weights, 150_000).arrays(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_source_that_is_too_short_is_named() -> None:
    order = BlendOrder(normalise([1, 3]), 8)
    with pytest.raises(InputError, match=r"source 1 of the blend has 5 samples, but a share of 0.75 of 8 samples is 6"):
        BlendedDataset([Constant(0, 2), Constant(1, 5)], order)


def test_more_samples_than_limits_hold_are_refused() -> None:
    with pytest.raises(InputError, match="a blend of 8 samples, but its sources hold 7 together"):
        BlendOrder(normalise([1, 1]), 8, [3, 4])


@pytest.mark.parametrize("count", [0, 32768])
def test_the_number_of_sources_is_limited(count: int) -> None:
    with pytest.raises(InputError, match=f"a blend of {count} sources"):
        BlendOrder(np.full(count, 0.1), 1)


@pytest.mark.parametrize("k", [-1, 4])
def test_samples_outside_are_an_error(k: int) -> None:
    with pytest.raises(IndexError, match=f"sample {k} is not one of the 4"):
        BlendOrder(normalise([1, 2]), 4).locate(k)
