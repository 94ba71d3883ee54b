"""Orders and samples: against a plain re-statement of the rules, and at their edges."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data import gpt_order, native
from firstlight.data.gpt_dataset import GptDataset
from firstlight.data.gpt_order import build_order, build_sample_index
from firstlight.data.sequential_dataset import SequentialDataset
from firstlight.data.split import parse_split, split_bounds
from tests.unit.data.numbered import sample, write


def walk(lengths: list[int], order: NDArray[np.int32], num_samples: int, length: int, extra: int) -> list[list[int]]:
    """Megatron's C++ loop (helpers.cpp, build_sample_idx), token counts and all."""
    rows = [[0, 0]]
    position, offset = 0, 0
    for _ in range(num_samples):
        remaining = length + extra
        while remaining:
            available = lengths[order[position]] - offset
            remaining -= available
            if remaining <= 0:
                offset += remaining + available - extra
                remaining = 0
            else:
                position, offset = position + 1, 0
        rows.append([position, offset])
    return rows


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=30),
    length=st.integers(1, 9),
    extra=st.integers(0, 1),
    block=st.integers(1, 5),
    is_compiled=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_sample_index_is_megatrons_loop(
    lengths: list[int], length: int, extra: int, block: int, is_compiled: bool
) -> None:
    order = np.random.RandomState(1).permutation(len(lengths)).astype(np.int32)
    num_samples = max(0, (sum(lengths) - extra) // length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt_order, "_BLOCK", block)
        if not is_compiled:
            patch.setattr(native, "COMPILED", None)
        rows = build_sample_index(
            np.array(lengths, np.int32), order, num_samples=num_samples, sequence_length=length, extra_token=extra
        )
    assert rows.tolist() == walk(lengths, order, num_samples, length, extra)


def test_an_empty_split_is_an_empty_order() -> None:
    lengths = np.array([3, 4], np.int32)
    for sequences, num_samples in ((range(1, 1), 5), (range(1, 1), None), (range(1, 1), 0)):
        order = build_order(lengths, sequences, num_samples=num_samples, sequence_length=2, seed=1)
        assert len(order.shuffle_index) == len(order.document_index) == 0


def test_a_last_epoch_needed_in_part_comes_last(tmp_path: Path) -> None:
    """10 samples an epoch, 12 asked for: first each token once, and only then again."""
    indexed = write(tmp_path / "set", [5] * 20)
    order = build_order(indexed.lengths, range(20), num_samples=12, sequence_length=10, seed=1)
    dataset = GptDataset(indexed, order, 10)
    assert len(dataset) == 19
    first = np.concatenate([sample(dataset, k)[:-1] for k in range(9)])
    assert len(set(first.tolist())) == len(first)


def test_epochs_are_mixed_when_most_of_the_last_is_needed(tmp_path: Path) -> None:
    indexed = write(tmp_path / "set", [5] * 20)
    order = build_order(indexed.lengths, range(20), num_samples=18, sequence_length=10, seed=1)
    assert len(set(order.document_index[:20].tolist())) < 20


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_refuses_is_named(seed: int) -> None:
    with pytest.raises(InputError, match=f"seed {seed}"):
        build_order(np.array([9], np.int32), range(1), num_samples=1, sequence_length=2, seed=seed)


def test_samples_outside_are_an_error(tmp_path: Path) -> None:
    indexed = write(tmp_path / "set", [9])
    order = build_order(indexed.lengths, range(1), num_samples=None, sequence_length=4, seed=1)
    for dataset in (GptDataset(indexed, order, 4), SequentialDataset(indexed, 4)):
        assert len(dataset) == 2
        for k in (-1, 2):
            with pytest.raises(IndexError):
                sample(dataset, k)


@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=20), length=st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_held_out_samples_follow_each_other(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], length: int
) -> None:
    indexed = write(tmp_path_factory.mktemp("set") / "set", lengths)
    if sum(lengths) < length + 1:
        with pytest.raises(InputError, match=f"has {sum(lengths)} tokens, but one sample .* needs {length + 1}"):
            SequentialDataset(indexed, length)
        return
    dataset = SequentialDataset(indexed, length)
    assert len(dataset) == (sum(lengths) - 1) // length
    for k in range(len(dataset)):
        assert sample(dataset, k) == list(range(k * length, k * length + length + 1))


@pytest.mark.parametrize("text", ["", "0,0,0", "1,2,3,4", "train", "1.2.3"])
def test_splits_that_are_none_are_named(text: str) -> None:
    with pytest.raises(InputError, match=r"data\.train\.split"):
        parse_split(text)


def test_bounds_of_a_part_without_share_are_none() -> None:
    assert split_bounds(parse_split("90,10,0"), 10) == [range(9), range(9, 10), None]
