"""Splitting and merging data sets: together they change nothing."""

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.base.errors import InputError
from firstlight.data.indexed import TOKEN_TYPES, IndexedDataset, bin_path, idx_path
from firstlight.data.indexed_merge import merge
from firstlight.data.indexed_split import cuts_of_counts, cuts_of_shares, split
from firstlight.data.indexed_writer import IndexedWriter

GOLDENS = Path(__file__).parents[4] / "shared" / "goldens" / "megatron" / "lowlevel"

Documents = list[list[int]]
"""Of each document, the numbers of tokens in its sequences."""


def write(prefix: Path, documents: Documents, dtype: str, modes: bool) -> None:
    random = np.random.default_rng(0)
    with IndexedWriter(prefix, np.dtype(dtype)) as writer:
        for lengths in documents:
            for length in lengths:
                writer.add(random.integers(0, 100, length).astype(dtype))
                writer.end_sequence()
            writer.end_document()
    if modes:
        num_sequences = sum(map(len, documents))
        with idx_path(prefix).open("ab") as file:
            file.write(random.integers(0, 4, num_sequences).astype(np.int8).tobytes())


def assert_same(one: Path, other: Path) -> None:
    for path in (bin_path, idx_path):
        assert path(one).read_bytes() == path(other).read_bytes()


@given(
    documents=st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=9),
    dtype=st.sampled_from(TOKEN_TYPES),
    modes=st.booleans(),
    choice=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_what_was_split_is_merged_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, documents: Documents, dtype: str, modes: bool, choice: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("sets")
    write(folder / "whole", documents, dtype, modes)
    inner = choice.draw(st.sets(st.integers(1, len(documents) - 1)) if len(documents) > 1 else st.just(set()))
    cuts = [0, *sorted(inner), len(documents)]
    parts = split(folder / "whole", folder / "part", cuts)
    whole = IndexedDataset.open(folder / "whole")
    for prefix, (start, stop) in zip(parts, pairwise(cuts), strict=True):
        part, first = IndexedDataset.open(prefix), int(whole.document_indices[start])
        expected = whole.document_indices[start : stop + 1] - first
        np.testing.assert_array_equal(part.document_indices, expected)
        for sequence in range(len(part)):
            np.testing.assert_array_equal(part.tokens(sequence), whole.tokens(first + sequence))
    merge(parts, folder / "merged")
    assert_same(folder / "merged", folder / "whole")


@pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"the Megatron goldens are not in {GOLDENS}")
@pytest.mark.parametrize("name", ["multimodal", "int32", "float64"])
def test_megatrons_own_sets_survive_it(name: str, tmp_path: Path) -> None:
    num_documents = len(IndexedDataset.open(GOLDENS / name).document_indices) - 1
    merge(split(GOLDENS / name, tmp_path / "part", cuts_of_shares(num_documents, [1, 2])), tmp_path / "merged")
    assert_same(tmp_path / "merged", GOLDENS / name)


def test_modes_and_none_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1]], "<u2", modes=True)
    write(tmp_path / "b", [[1]], "<u2", modes=False)
    with pytest.raises(InputError, match="a is a multimodal set, .*b is not"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert not list(tmp_path.glob("c*"))


def test_blocks_and_copies_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "whole", [[3, 0, 4], [], [1], [5, 5]] * 6, "<i4", modes=True)
    monkeypatch.setattr("firstlight.data.indexed_copy._BLOCK", 3)
    monkeypatch.setattr("firstlight.data.indexed_copy._COPY_BYTES", 7)
    merge(split(tmp_path / "whole", tmp_path / "part", [0, 5, 6, 24]), tmp_path / "merged")
    assert_same(tmp_path / "merged", tmp_path / "whole")


def test_a_split_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "whole", [[3], [4]], "<i4", modes=False)
    written: list[int] = []

    def full(_path: Path, _places: range, content: Any) -> None:
        written.append(1)
        if len(written) == 2:
            raise OSError("no space")
        assert isinstance(content.file, io.BufferedWriter)

    monkeypatch.setattr("firstlight.data.indexed_copy._copy_bytes", full)
    with pytest.raises(OSError, match="no space"):
        split(tmp_path / "whole", tmp_path / "part", [0, 1, 2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.bin", "whole.idx"]


def test_the_set_itself_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "a_0", [[3], [4]], "<i4", modes=False)
    with pytest.raises(InputError, match="would be overwritten"):
        split(tmp_path / "a_0", tmp_path / "a", [0, 1, 2])


def test_cuts() -> None:
    assert cuts_of_shares(10, [9, 1]) == [0, 9, 10]
    assert cuts_of_shares(10, [1, 1, 1]) == [0, 3, 7, 10]
    assert cuts_of_counts(10, [2, 3]) == [0, 2, 5, 10]
    assert cuts_of_counts(5, [2, 3]) == [0, 2, 5]
    for shares in ([], [1, 0], [-1, 2], [float("nan")], [float("inf"), 1], [1] * 11, [1e9, 1]):
        with pytest.raises(InputError, match="share"):
            cuts_of_shares(10, shares)
    for counts in ([], [0, 1], [11], [-1]):
        with pytest.raises(InputError, match="--documents"):
            cuts_of_counts(10, counts)
