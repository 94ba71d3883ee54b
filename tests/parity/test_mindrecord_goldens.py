"""MindRecord files that MindSpore wrote, read as MindSpore read them. The goldens lie beside the repository."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.data.mindrecord_dataset import MindRecordDataset
from firstlight.data.mindrecord_header import read_header
from firstlight.data.mindrecord_reader import MindRecordReader
from firstlight.data.mindrecord_writer import MindRecordWriter
from firstlight.data.samples import read_samples

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "mindspore" / "mindrecord"
pytestmark = pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"the MindRecord goldens are not in {GOLDENS}")

SETS = ("single.mindrecord", "sharded.mindrecord0", "mixed.mindrecord")


def expected_rows(name: str) -> list[dict[str, Any]]:
    with gzip.open(GOLDENS / "expected.json.gz") as file:
        rows: list[dict[str, Any]] = json.load(file)[name]
    return rows


def require_equal(row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert row.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, str):
            assert row[name] == value
        elif "bytes_hex" in value:
            assert row[name] == bytes.fromhex(value["bytes_hex"])
        else:
            right = np.array(value["data"], value["dtype"])
            assert list(np.shape(row[name])) == value["shape"]
            assert np.array_equal(row[name], right)
            if value["shape"]:
                assert row[name].dtype == right.dtype


@pytest.mark.parametrize("name", SETS)
def test_every_row_is_mindspores(name):
    expected = expected_rows(name)
    with MindRecordReader.open(GOLDENS / name) as reader:
        assert len(reader) == len(expected)
        for row, right in zip(reader, expected, strict=True):
            require_equal(row, right)


@pytest.mark.parametrize("name", ["sharded.mindrecord", "sharded.mindrecord1", "sharded.mindrecord2"])
def test_a_set_is_opened_by_any_of_its_names(name):
    with MindRecordReader.open(GOLDENS / name, ["input_ids"]) as reader:
        found = [row["input_ids"].tolist() for row in reader]
    assert found == [row["input_ids"]["data"] for row in expected_rows("sharded.mindrecord0")]


@pytest.mark.parametrize("name", ["single.mindrecord", "mixed.mindrecord"])
def test_rewritten_sets_have_the_same_records_in_the_same_places(tmp_path, name):
    header = read_header(GOLDENS / name)
    copy = tmp_path / name
    with (
        MindRecordReader.open(GOLDENS / name) as reader,
        MindRecordWriter(
            copy,
            reader.schema,
            page_size=header.page_size,
            header_size=header.header_size,
            index_fields=header.index_fields,
        ) as writer,
    ):
        for row in reader:
            writer.add(row)
    assert copy.read_bytes()[header.header_size :] == (GOLDENS / name).read_bytes()[header.header_size :]
    assert read_header(copy).pages == header.pages
    assert read_header(copy).columns == header.columns


def test_labels_give_the_samples_of_pretraining():
    expected = expected_rows("single.mindrecord")
    with MindRecordReader.open(GOLDENS / "single.mindrecord", ["input_ids", "labels"]) as reader:
        dataset = MindRecordDataset(reader, 16, labels_column="labels")
        samples = read_samples(dataset, np.arange(len(expected)))
        assert samples.num_real.tolist() == [16] * len(expected)
        for k, row in enumerate(expected):
            assert row["labels"]["data"][-1] == -100
            assert samples.tokens[k].tolist() == [*row["input_ids"]["data"], 0]
