"""megatron-core's own IndexedDataset reads what we write, and we read what its builder writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from firstlight.data.indexed import IndexedDataset, bin_path, idx_path
from firstlight.data.indexed_merge import merge
from firstlight.data.indexed_split import cuts_of_shares, split
from firstlight.data.indexed_writer import IndexedWriter
from tests.parity.other_python import interpreter, run

pytestmark = pytest.mark.interop

DTYPES = ["uint8", "int8", "int16", "int32", "int64", "float64", "float32", "uint16"]
DOCUMENTS = [[[1, 2, 3], [4]], [], [[5, 6, 7, 8], [], [9]], [[10] * 500], [[]]]

READ = """
import sys
import numpy
from megatron.core.datasets.indexed_dataset import IndexedDataset
prefix, is_multimodal, out = sys.argv[1], sys.argv[2] == "multimodal", sys.argv[3]
found = {}
for mmap in (True, False):
    one = IndexedDataset(prefix, multimodal=is_multimodal, mmap=mmap)
    items = [one[k] for k in range(len(one))]
    tokens = [item[0] if is_multimodal else item for item in items]
    found[f"tokens_{mmap}"] = numpy.concatenate(tokens)
    assert all(part.dtype == tokens[0].dtype for part in tokens)
found["lengths"] = one.sequence_lengths
found["documents"] = one.document_indices
if is_multimodal:
    found["modes"] = one.index.sequence_modes  # its own property fails on more than one
numpy.savez(out, **found)
"""

WRITE = """
import json, sys
import numpy, torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
prefix, how, documents = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
dtype, is_multimodal = (numpy.int32, True) if how == "multimodal" else (getattr(numpy, how), False)
builder = IndexedDatasetBuilder(prefix + ".bin", dtype=dtype, multimodal=is_multimodal)
number = 0
for document in documents:
    for sequence in document:
        builder.add_item(torch.tensor(sequence), *([number % 3] if is_multimodal else []))
        number += 1
    builder.end_document()
builder.finalize(prefix + ".idx")
"""


@pytest.fixture(scope="module")
def python() -> str:
    return interpreter("FIRSTLIGHT_MEGATRON_PYTHON", "megatron-core")


def write(prefix: Path, dtype: str) -> None:
    with IndexedWriter(prefix, np.dtype(dtype)) as writer:
        for document in DOCUMENTS:
            for sequence in document:
                writer.add(np.array(sequence, np.int64).clip(0, 100))
                writer.end_sequence()
            writer.end_document()


def assert_read_alike(python: str, prefix: Path, how: str) -> None:
    run(python, READ, prefix, how, prefix.with_suffix(".npz"))
    one = IndexedDataset.open(prefix)
    expected = np.concatenate([one.tokens(k) for k in range(len(one))])
    with np.load(prefix.with_suffix(".npz")) as found:
        for name in ("tokens_True", "tokens_False"):
            assert found[name].dtype == expected.dtype
            np.testing.assert_array_equal(found[name], expected)
        np.testing.assert_array_equal(found["lengths"], one.lengths)
        np.testing.assert_array_equal(found["documents"], one.document_indices)


@pytest.mark.parametrize("dtype", DTYPES)
def test_megatron_reads_ours(python: str, dtype: str, tmp_path: Path) -> None:
    write(tmp_path / "ours", dtype)
    assert_read_alike(python, tmp_path / "ours", "plain")


@pytest.mark.parametrize("how", ["uint16", "int32", "float32", "multimodal"])
def test_we_read_megatrons(python: str, how: str, tmp_path: Path) -> None:
    run(python, WRITE, tmp_path / "theirs", how, json.dumps(DOCUMENTS))
    one = IndexedDataset.open(tmp_path / "theirs")
    sequences = [sequence for document in DOCUMENTS for sequence in document]
    assert [one.tokens(k).tolist() for k in range(len(one))] == sequences
    assert one.document_indices.tolist() == np.cumsum([0, *map(len, DOCUMENTS)]).tolist()
    parts = split(tmp_path / "theirs", tmp_path / "part", cuts_of_shares(len(DOCUMENTS), [1, 1]))
    merge(parts, tmp_path / "merged")
    for path in (bin_path, idx_path):
        assert path(tmp_path / "merged").read_bytes() == path(tmp_path / "theirs").read_bytes()
    for part in parts:
        assert_read_alike(python, part, "multimodal" if how == "multimodal" else "plain")
    if how == "multimodal":
        modes = [np.load(part.with_suffix(".npz"))["modes"] for part in parts]
        assert np.concatenate(modes).tolist() == [number % 3 for number in range(len(sequences))]
