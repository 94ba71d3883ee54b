"""Blends: any place of them, in either way, and never more of a source than there is."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data import blend, native
from firstlight.data.blend import BlendOrder, normalise, sizes_to_build, target_sizes
from firstlight.data.blended_dataset import BlendedDataset
from firstlight.data.samples import Samples, read_samples, require_numbers
from tests.unit.data.numbered import sample

WEIGHTS = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9)


class Constant:
    """`size` samples of one token."""

    sequence_length = 1

    def __init__(self, token: int, size: int) -> None:
        self.token = token
        self.size = size

    def __len__(self) -> int:
        return self.size

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        require_numbers(numbers, self.size, "a constant")
        out.tokens[rows, 0], out.tokens[rows, 1] = self.token, numbers
        out.num_real[rows] = 2


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
        places = np.random.default_rng(size).permutation(size)
        order = BlendOrder(shares, size)
        located = [order.locate(part) for part in np.array_split(places, 3)]
        assert [pair for one in located for pair in zip(*one, strict=True)] == [expected[t] for t in places]
        for place in places[:3].tolist():
            counts = np.bincount([source for source, _ in expected[:place]], minlength=len(weights))
            assert order.counts_before(place).tolist() == counts.tolist()
            resumed = BlendOrder(shares, size)
            resumed.remember(*order.start_of_block(place))
            assert list(zip(*resumed.locate(np.array([place])), strict=True)) == [expected[place]]
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
            [BlendOrder(normalise(sizes), sum(sizes), sizes)],
        )
        read = [tuple(sample(dataset, k)) for k in range(len(dataset))]
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
    with pytest.raises(InputError, match=r"source 1 of the blend has 5 samples, but its share of 8 samples is 6"):
        BlendedDataset([Constant(0, 2), Constant(1, 5)], [order])


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
        BlendOrder(normalise([1, 2]), 4).locate(np.array([k]))


@given(
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    num_sources=st.integers(1, 5),
    block=st.integers(1, 60),
)
@settings(max_examples=100, deadline=None)
def test_stages_go_on_where_the_last_one_stopped(sizes: list[int], seed: int, num_sources: int, block: int) -> None:
    """Each stage is a blend of its own; a source's samples are read one after the other across stages."""
    random = np.random.default_rng(seed)
    shares = [normalise(random.uniform(0.01, 1, num_sources)) for _ in sizes]

    def opened() -> BlendedDataset:
        stages = [BlendOrder(one, size) for one, size in zip(shares, sizes, strict=True)]
        return BlendedDataset([Constant(token, 10**6) for token in range(num_sources)], stages)

    taken = [0] * num_sources
    expected = []
    for one, size in zip(shares, sizes, strict=True):
        for source, _ in plain(one.tolist(), size):
            expected.append([source, taken[source]])
            taken[source] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "_BLOCK", block)
        dataset = opened()
        assert read_samples(dataset, np.arange(len(dataset))).tokens.tolist() == expected
        stop = int(random.integers(0, len(dataset) + 1))
        position = json.loads(json.dumps(dataset.position(stop)))
        resumed = opened()
        resumed.go_to(stop, position)
        assert read_samples(resumed, np.arange(stop, len(dataset))).tokens.tolist() == expected[stop:]
    counts = np.bincount([source for source, _ in expected[:stop]], minlength=num_sources)
    assert position["consumed_by_source"] == counts.tolist()


def test_a_position_of_other_weights_is_refused() -> None:
    def opened(*weights: float) -> BlendedDataset:
        return BlendedDataset([Constant(0, 100), Constant(1, 100)], [BlendOrder(normalise(weights), 50)])

    with pytest.raises(InputError, match="of other sources or weights"):
        opened(1, 3).go_to(40, opened(1, 1).position(40))
