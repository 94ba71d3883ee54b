"""Packed rows hold every document once and whole, in few rows; both ways of packing are equal."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.data import native
from firstlight.data.packed_dataset import PackedDataset, pack_with_python
from firstlight.data.samples import read_samples
from tests.unit.data.numbered import write


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    length=st.integers(1, 20),
    is_compiled=st.booleans(),
    skipped=st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_each_document_is_in_the_rows_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], length: int, is_compiled: bool, skipped: int
) -> None:
    indexed = write(tmp_path_factory.mktemp("set") / "set", lengths)
    sequences = range(min(skipped, len(lengths)), len(lengths))
    with pytest.MonkeyPatch.context() as patch:
        if not is_compiled:
            patch.setattr(native, "GATHER", None)
        dataset = PackedDataset(indexed, length, sequences)
    samples = read_samples(dataset, np.arange(len(dataset)))
    found = []
    for tokens, begins, num_real in zip(samples.tokens, samples.begins, samples.num_real, strict=True):
        assert 0 < num_real <= length + 1
        assert (tokens[num_real:] == 0).all()
        found += [part.tolist() for part in np.split(tokens[:num_real], np.flatnonzero(begins)[1:])]
    expected = []
    for sequence in sequences:
        ids = indexed.tokens(sequence).tolist()
        # Cut into rows that share a token: each token but the first is predicted once.
        expected += [ids[at : at + length + 1] for at in range(0, max(1, len(ids) - 1), length) if ids]
    assert sorted(found) == sorted(expected)


@given(
    lengths=st.lists(st.integers(1, 30), max_size=200).map(lambda lengths: sorted(lengths, reverse=True)),
    width=st.integers(30, 64),
)
@settings(max_examples=100, deadline=None)
def test_packing_is_tight_and_equal_in_both_ways(lengths: list[int], width: int) -> None:
    values = np.array(lengths, np.int64)
    rows = np.empty(len(values), np.int64)
    num_rows = pack_with_python(values, width, rows)
    filled = np.bincount(rows, values, minlength=num_rows)
    assert (filled <= width).all()
    # Best fit, longest first, needs at most 11/9 of the best and 4 more (Johnson 1973); the sum bounds the best.
    lower = -(-int(values.sum()) // width)
    assert num_rows <= max(lower, 11 / 9 * _best(lengths, width) + 4)
    if native.GATHER:
        compiled = np.empty(len(values), np.int64)
        assert native.GATHER.pack(values, width, compiled) == num_rows
        np.testing.assert_array_equal(compiled, rows)


def _best(lengths: list[int], width: int) -> int:
    """At least this many rows: the sum, and those that are too long to share one."""
    return max(-(-sum(lengths) // width), sum(length > width / 2 for length in lengths))


def test_padding_is_what_no_document_fits(tmp_path: Path) -> None:
    dataset = PackedDataset(write(tmp_path / "set", [6, 4, 3, 9]), 9, range(4))
    assert len(dataset) == 3
    assert dataset.share_of_padding == pytest.approx(1 - 22 / 30)
    assert sorted(read_samples(dataset, np.arange(3)).num_real.tolist()) == [3, 9, 10]
