"""Positions, masks, document lengths, fill-in-the-middle and made-up data as Megatron-LM gives them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from firstlight.data.document_masks import attention_mask, begins_after, cumulative_lengths, restarting_positions
from firstlight.data.fim import FimTokens, Rearranging
from firstlight.data.gpt_dataset import GptDataset
from firstlight.data.gpt_order import build_order
from firstlight.data.indexed import IndexedDataset
from firstlight.data.mock_dataset import MockDataset
from firstlight.data.samples import read_samples
from firstlight.data.split import parse_split, split_bounds

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "megatron"
pytestmark = pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"the Megatron goldens are not in {GOLDENS}")
SPLITS = ("train", "valid", "test")
END = 0


def _description(case: str) -> dict[str, Any]:
    description: dict[str, Any] = json.loads((GOLDENS / "cases" / f"{case}.json").read_text())
    return description


def _dataset(case: str, split: str) -> GptDataset:
    description, which = _description(case), SPLITS.index(split)
    config = description["config"]
    indexed = IndexedDataset.open(GOLDENS / config["blend"][0][0])
    sequences = split_bounds(parse_split(config["split"]), len(indexed))[which]
    assert sequences is not None
    order = build_order(
        indexed.lengths,
        sequences,
        num_samples=description["sizes"][which],
        sequence_length=config["sequence_length"],
        seed=config["random_seed"],
    )
    return GptDataset(indexed, order, config["sequence_length"])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("case", ["single_causal_mask", "single_reset_attn", "single_reset_pos", "single_reset_all"])
def test_positions_and_masks_are_equal(case: str, split: str) -> None:
    config = _description(case)["config"]
    dataset = _dataset(case, split)
    tokens = read_samples(dataset, np.arange(len(dataset))).tokens[:, :-1]
    begins = begins_after(tokens, END)
    length = dataset.sequence_length
    plain = np.broadcast_to(np.arange(length), tokens.shape)
    positions = restarting_positions(begins) if config["reset_position_ids"] else plain
    golden = _description(case)["splits"][split]["sha256_all_samples_in_order"]
    assert hashlib.sha256(positions.astype(np.int64).tobytes()).hexdigest() == golden["position_ids"]
    if not config["create_attention_mask"]:
        return
    with np.load(GOLDENS / "cases" / f"{case}.npz") as arrays:
        picked = arrays[f"{split}/picked"]
        masks = attention_mask(begins[picked] if config["reset_attention_mask"] else None, length)
        masks = np.broadcast_to(masks, (len(picked), length, length))
        packed = np.packbits(masks.reshape(len(picked), -1), axis=1)
        np.testing.assert_array_equal(packed, arrays[f"{split}/sample_attention_mask"])


@pytest.mark.parametrize("split", SPLITS)
def test_lengths_of_documents_are_equal(split: str) -> None:
    case = "single_intradoc_cu_seqlens"
    dataset = _dataset(case, split)
    begins = read_samples(dataset, np.arange(len(dataset))).begins[:, :-1]
    ends, longest = cumulative_lengths(begins)
    golden = _description(case)["splits"][split]["sha256_all_samples_in_order"]
    digest = hashlib.sha256(restarting_positions(begins).astype(np.int64).tobytes())
    assert digest.hexdigest() == golden["position_ids"]
    with np.load(GOLDENS / "cases" / f"{case}.npz") as arrays:
        picked = arrays[f"{split}/picked"]
        np.testing.assert_array_equal(ends[picked], arrays[f"{split}/sample_cu_seqlens"])
        np.testing.assert_array_equal(longest[picked], arrays[f"{split}/sample_max_seqlen"])


@pytest.mark.parametrize("case", ["fim_docs", "fim_psm_spm"])
def test_fill_in_the_middle_is_equal(case: str) -> None:
    """With Megatron's random numbers, drawn from one stream as the samples are fetched."""
    config = _description(case)
    tokenizer = Tokenizer.from_file(str(GOLDENS / "tokenizer" / "tokenizer.json"))
    names = {name: tokenizer.token_to_id(f"<|fim_{name}|>") for name in ("prefix", "middle", "suffix")}
    assert None not in names.values()
    how = Rearranging.with_tokenizer(
        tokenizer,
        FimTokens(**names, end_of_document=END),
        rate=config["fim_rate"],
        spm_rate=config["fim_spm_rate"],
    )
    indexed = IndexedDataset.open(GOLDENS / config["path"])
    length = config["seq"]
    order = build_order(
        indexed.lengths,
        range(len(indexed)),
        num_samples=config["n"],
        sequence_length=length,
        seed=config["seed"],
    )
    samples = read_samples(GptDataset(indexed, order, length), np.arange(config["n"]))
    random = np.random.RandomState(config["seed"])
    with np.load(GOLDENS / "cases" / f"{case}.npz") as arrays:
        for tokens, golden in zip(samples.tokens, arrays["tokens_in_access_order_0_to_n"], strict=True):
            ids, _ = how.sample(tokens.tolist(), random)
            ids = [*ids[: length + 1], *[1] * (length + 1 - len(ids))]
            assert [0 if token == 1 else token for token in ids[:-1]] == golden.tolist()


@pytest.mark.parametrize("split", SPLITS)
def test_mock_data_are_equal(split: str) -> None:
    description, which = _description("mock"), SPLITS.index(split)
    first, stop = description["splits"][split]["indices"]
    dataset = MockDataset(
        4096,
        num_samples=description["sizes"][which],
        seed=1234,
        end_of_document=END,
        vocab_size=8192,
        documents=range(first, stop),
    )
    with np.load(GOLDENS / "cases" / "mock.npz") as arrays:
        for name in ("document_index", "sample_index", "shuffle_index"):
            np.testing.assert_array_equal(getattr(dataset.order, name), arrays[f"{split}/{name}"])
        samples = read_samples(dataset, arrays[f"{split}/picked"])
        # Megatron takes the id 1, which its tokenizer uses for padding, for padding, and writes 0; ours stays an id.
        tokens = np.where(samples.tokens == 1, 0, samples.tokens)
        np.testing.assert_array_equal(tokens[:, :-1], arrays[f"{split}/sample_tokens"])
        np.testing.assert_array_equal(tokens[:, 1:], arrays[f"{split}/sample_labels"])
