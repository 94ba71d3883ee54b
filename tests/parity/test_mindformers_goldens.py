"""Batches that MindFormers' BlendedMegatronDatasetDataLoader gave, and the indices that it cached."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.data.blend import BlendOrder, normalise, sizes_to_build
from firstlight.data.blended_dataset import BlendedDataset
from firstlight.data.document_masks import attention_mask, begins_after, compressed_ends, restarting_positions
from firstlight.data.gpt_dataset import GptDataset
from firstlight.data.gpt_order import build_order
from firstlight.data.indexed import IndexedDataset
from firstlight.data.samples import read_samples
from firstlight.data.split import parse_split, split_bounds

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "mindspore" / "megatron"
pytestmark = pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"the MindFormers goldens are not in {GOLDENS}")


def _cases() -> dict[str, Any]:
    cases: dict[str, Any] = {}
    for name in ("cases.json", "case_g.json"):
        if (GOLDENS / "gptdataset" / name).is_file():
            cases |= json.loads((GOLDENS / "gptdataset" / name).read_text())
    return cases


CASES = _cases()


@pytest.mark.parametrize("name", CASES)
def test_batches_are_equal(name: str) -> None:
    case = CASES[name]
    config = case["config"]
    length, end = config["seq_length"], config["eod"]
    pairs = config["data_path"]
    weights = normalise([float(weight) for weight in pairs[::2]])
    asked = sizes_to_build(weights, case["sizes"][0])
    datasets = []
    for prefix, num_samples in zip(pairs[1::2], asked, strict=True):
        indexed = IndexedDataset.open(GOLDENS / Path(prefix).name)
        sequences = split_bounds(parse_split(config["split"]), len(indexed))[0]
        assert sequences is not None
        order = build_order(
            indexed.lengths, sequences, num_samples=num_samples, sequence_length=length, seed=config["seed"]
        )
        datasets.append(GptDataset(indexed, order, length))
    order = BlendOrder(weights, sum(asked))  # the older builder blends all that it builds
    samples = read_samples(BlendedDataset(datasets, [order]), np.arange(order.size))
    tokens, labels = samples.tokens[:, :-1], samples.tokens[:, 1:]
    assert len(tokens) == case["len_dataset"]
    with np.load(GOLDENS / "gptdataset" / f"{name}.npz") as golden:
        for number, dataset in enumerate(datasets):
            for array in ("document_index", "sample_index", "shuffle_index"):
                np.testing.assert_array_equal(getattr(dataset.order, array), golden[f"ds{number}_{array}"])
        for ours, array in zip(order.arrays(), ("dataset_index", "dataset_sample_index"), strict=True):
            np.testing.assert_array_equal(ours, golden[array])
        np.testing.assert_array_equal(tokens, golden["input_ids"])
        np.testing.assert_array_equal(labels, golden["labels"])
        begins = begins_after(tokens, end)
        mask = tokens != end if config["eod_mask_loss"] else np.ones_like(tokens)
        np.testing.assert_array_equal(mask, golden["loss_mask"])
        positions = np.broadcast_to(np.arange(length), tokens.shape)
        if config["reset_position_ids"]:
            positions = restarting_positions(begins)
        np.testing.assert_array_equal(positions, golden["position_ids"])
        if "attention_mask" in golden.files:
            expected = np.unpackbits(golden["attention_mask"], axis=-1)[:, 0]
            masks = attention_mask(begins[: len(expected)] if config["reset_attention_mask"] else None, length)
            np.testing.assert_array_equal(np.broadcast_to(masks, expected.shape), expected)
        if "actual_seq_len" in golden.files:
            expected = golden["actual_seq_len"]
            np.testing.assert_array_equal(compressed_ends(tokens, end, expected.shape[1]), expected)
