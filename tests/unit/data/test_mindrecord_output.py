"""`prepare --output-format mindrecord`: the same tokens as the Megatron set, and a run can read them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from firstlight.base.errors import InputError
from firstlight.cli.main import app
from firstlight.config.data import DataConfig
from firstlight.data.indexed import IndexedDataset
from firstlight.data.mindrecord_output import prepare_mindrecord
from firstlight.data.mindrecord_reader import MindRecordReader
from firstlight.data.open import TrainingNeeds, open_training_data
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.samples import read_samples
from firstlight.data.tokenizer import PADDING, train_tokenizer

PARAGRAPHS = [f"paragraph {number} " + "of several words " * (number % 6) for number in range(40)]


@pytest.fixture
def request_(tmp_path: Path) -> PrepareRequest:
    train_tokenizer(PARAGRAPHS, 300).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "in.txt").write_text("\n\n".join(PARAGRAPHS))
    return PrepareRequest(
        inputs=(tmp_path / "in.txt",),
        tokenizer=tmp_path / "tokenizer.json",
        output_prefix=tmp_path / "set",
        documents="blank-line",
        held_out_fraction=0.2,
    )


def both(request: PrepareRequest, num_shards: int) -> list[tuple[list[list[int]], list[list[int]]]]:
    """(expected, found) rows of each set."""
    expected = []
    prepare(replace(request, output_prefix=request.output_prefix.with_name("megatron")))
    for name in ("_text_document", "_heldout_text_document"):
        indexed = IndexedDataset.open(request.output_prefix.with_name(f"megatron{name}"))
        expected.append([indexed.tokens(k).tolist() for k in range(len(indexed))])
    prepare_mindrecord(request, num_shards)
    found = []
    for name in ("_text_document", "_heldout_text_document"):
        path = Path(f"{request.output_prefix}{name}.mindrecord")
        with MindRecordReader.open(path) as reader:
            rows: list[Any] = list(reader)
            assert all(row["input_ids"].dtype == np.int32 for row in rows)
            assert len(reader.files) == num_shards
        found.append([row["input_ids"].tolist() for row in rows])
    return list(zip(expected, found, strict=True))


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("kind", [None, "stitch", "pad"])
def test_rows_are_those_of_the_megatron_set(request_: PrepareRequest, kind: Any, num_shards: int) -> None:
    changes = {} if kind is None else {"rows": kind, "sequence_length": 8, "pad_token": PADDING}
    for expected, found in both(replace(request_, **changes), num_shards):
        assert len(expected) > 4
        assert found == [row for shard in range(num_shards) for row in expected[shard::num_shards]]
        assert kind is None or {len(row) for row in found} == {9}
    left = sorted(path.name for path in request_.output_prefix.parent.glob("set*"))
    assert all(name == "set.json" or ".mindrecord" in name or name.endswith(".npy") for name in left)


def test_a_run_reads_them(request_: PrepareRequest) -> None:
    prepare_mindrecord(replace(request_, rows="stitch", sequence_length=8, held_out_fraction=0.0), 2)
    path = Path(f"{request_.output_prefix}_text_document.mindrecord")
    with MindRecordReader.open(path) as reader:
        rows: list[Any] = [row["input_ids"].tolist() for row in reader]
    train = {"sources": [{"kind": "mindrecord", "path": path}], "sequence_length": 8, "order": "sequential"}
    config = DataConfig.model_validate({"train": train, "tokenizer": request_.tokenizer})
    needs = TrainingNeeds(num_samples=len(rows), seed=3, vocab_size=300)
    dataset = open_training_data(config, needs).dataset
    assert read_samples(dataset, np.arange(len(rows))).tokens.tolist() == rows


def test_a_megatron_set_is_not_lost(request_: PrepareRequest) -> None:
    prepare(request_)
    with pytest.raises(InputError, match="set_text_document.bin is there already"):
        prepare_mindrecord(request_)
    assert IndexedDataset.open(Path(f"{request_.output_prefix}_text_document"))


def test_the_command(request_: PrepareRequest) -> None:
    arguments = ["prepare", "--tokenizer", request_.tokenizer, "--output-prefix", request_.output_prefix]
    arguments += ["--input", request_.inputs[0], "--rows", "stitch", "--sequence-length", "8", "--shards", "2"]
    runner = CliRunner()
    result = runner.invoke(app, [*map(str, arguments), "--output-format", "mindrecord"])
    assert result.exit_code == 0
    assert "set_text_document.mindrecord: " in result.output
    assert len(list(request_.output_prefix.parent.glob("*.mindrecord[01]"))) == 2
    refused = runner.invoke(app, [*map(str, arguments)])
    assert isinstance(refused.exception, InputError)
    assert "--shards is for --output-format mindrecord" in str(refused.exception)
