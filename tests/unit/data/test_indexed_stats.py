"""Statistics of data sets, against plain numpy."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.data.indexed_stats import stats
from firstlight.data.indexed_writer import IndexedWriter

Documents = list[list[list[int]]]


def write(prefix: Path, documents: Documents, dtype: str = "int32") -> Path:
    with IndexedWriter(prefix, np.dtype(dtype)) as writer:
        for document in documents:
            for sequence in document:
                writer.add(np.array(sequence, np.int64))
                writer.end_sequence()
            writer.end_document()
    return prefix


@pytest.mark.parametrize("block", [1, 3, 1 << 20])
@given(documents=st.lists(st.lists(st.lists(st.integers(0, 30), max_size=9), max_size=4), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_numbers_are_numpys(tmp_path_factory: pytest.TempPathFactory, block: int, documents: Documents) -> None:
    prefix = write(tmp_path_factory.mktemp("set") / "set", documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("firstlight.data.indexed_stats._BLOCK", block)
        patch.setattr("firstlight.data.indexed_stats._MAPPED_DOCUMENTS", block)
        found = stats(prefix, 3)
    lengths = [sum(map(len, document)) for document in documents]
    tokens = [number for document in documents for sequence in document for number in sequence]
    ends = [document[-1][-1] for document in documents if document and document[-1]]
    assert found.lengths is not None
    assert (found.lengths.minimum, found.lengths.maximum) == (min(lengths), max(lengths))
    assert found.lengths.median == np.percentile(lengths, 50, method="inverted_cdf")
    assert found.lengths.percentile_95 == np.percentile(lengths, 95, method="inverted_cdf")
    assert found.lengths.mean == pytest.approx(np.mean(lengths))
    for low, high, count in found.lengths.histogram:
        assert count == sum(low <= length <= high for length in lengths)
    assert sum(count for _, _, count in found.lengths.histogram) == found.num_documents == len(documents)
    assert found.num_empty_documents == documents.count([])
    assert found.num_tokens == len(tokens)
    assert (found.ids is None) == (not tokens)
    if found.ids is not None:
        counts = Counter(tokens)
        assert (found.ids.smallest, found.ids.largest, found.ids.distinct) == (min(tokens), max(tokens), len(counts))
        assert found.ids.most_frequent == sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3]
    assert (found.last_id is None) == (not ends)
    if found.last_id is not None:
        number, count = min(Counter(ends).items(), key=lambda item: (-item[1], item[0]))
        assert found.last_id == (number, count / len(ends))


@pytest.mark.parametrize("ids", [[-1, 5], [2**22, 5], [2**31 - 1]])
def test_ids_that_no_vocabulary_has_cost_no_memory(tmp_path: Path, ids: list[int]) -> None:
    found = stats(write(tmp_path / "set", [[ids]])).ids
    assert found is not None
    assert (found.smallest, found.largest) == (min(ids), max(ids))
    assert found.distinct is found.most_frequent is None


def test_floats_and_nothing_have_no_ids(tmp_path: Path) -> None:
    assert stats(write(tmp_path / "floats", [[[1, 2]]], "float32")).ids is None
    empty = stats(write(tmp_path / "none", []))
    assert (empty.lengths, empty.ids, empty.last_id, empty.num_documents) == (None, None, None, 0)
