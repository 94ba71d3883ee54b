"""A run of MindFormers: its weights in our model give its losses."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from firstlight.config.model import ModelConfig
from firstlight.convert.conversion import Conversion, ConversionPlan
from firstlight.convert.formats import format_named, format_of
from firstlight.convert.hub_section import read_section
from firstlight.convert.hub_weights import read_weights
from firstlight.convert.mindformers_weights import MindFormersChoices, named_weights
from firstlight.convert.safetensors_files import DTYPES
from firstlight.convert.source import StoredTensor
from firstlight.convert.weight_format import ReadChoices
from firstlight.models.decoder import Decoder
from firstlight.models.family import family_of

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "mindspore"
RUN = GOLDENS / "tiny_deepseek_run"
RANK = RUN / "output" / "checkpoint" / "rank_0"
pytestmark = pytest.mark.skipif(not RUN.is_dir(), reason=f"the run of MindFormers is not in {RUN}")

LOSSES = {0: 8.412485, 1: 8.413458, 3: 8.334364}
"""As logged, after so many steps."""

CLOSE = 2e-5
"""Six digits are logged; fp32 in another order of operations makes up the rest."""

MODEL: dict[str, Any] = {
    "family": "deepseek_v3",
    "vocab_size": 640,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "attention": {
        "kind": "mla",
        "num_attention_heads": 4,
        "q_lora_rank": 32,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
    },
    "feed_forward": {
        "kind": "moe",
        "first_k_dense_replace": 1,
        "intermediate_size": 128,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "router": {"num_experts_per_tok": 2, "routed_scaling_factor": 2.5, "sequence_balance_loss": 1e-4},
    },
    "multi_token_prediction": {"num_layers": 1, "loss_weight": 0.3},
}
SOURCES = {
    "ckpt": (RUN / "tiny_weights_step1.ckpt", None, 1),
    "folder": (RUN / "output", "1_1", 1),
    "file": (RANK / "deepseekv3_rank_0-1_1.safetensors", None, 1),
    "later": (RUN / "output" / "checkpoint", "1_3", 3),
}


def loaded(path: Path, at: str | None, choices: MindFormersChoices) -> Decoder:
    config = ModelConfig.model_validate(MODEL)
    model = family_of(config).build(config)
    tensors: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    opened = format_of(path).open(path, ReadChoices(model=config, at=at, mindformers=choices))
    opened.weights.require_match(tensors)
    opened.weights.fill(tensors)
    return model


@torch.no_grad()
def loss(model: Decoder, step: int) -> float:
    """The training loss on the batch of the step after `step`: next token, 0.3 x one further, 1e-4 x balance."""
    with np.load(GOLDENS / "megatron" / "gptdataset" / "g_training_batches_n24_s64.npz") as batches:
        rows = [
            torch.from_numpy(batches[name][4 * step : 4 * step + 4]) for name in ("input_ids", "labels", "loss_mask")
        ]
    tokens, labels, mask = rows[0].long(), rows[1].long(), rows[2].float()
    sums = model(tokens, labels, mask, None)
    ahead = mask[:, 1:].sum()
    return float(sums.lm / mask.sum() + 0.3 * sums.mtp.sum() / ahead + 1e-4 * sums.balance / len(tokens))


@pytest.mark.parametrize("name", SOURCES)
def test_the_next_loss_is_the_logged_one(name: str) -> None:
    path, at, step = SOURCES[name]
    assert abs(loss(loaded(path, at, MindFormersChoices()), step) - LOSSES[step]) < CLOSE


def test_the_first_loss_is_the_logged_one() -> None:
    # The first step has learning rate 0: checkpoint 1 holds the initial weights, but biases that were moved since.
    model = loaded(RUN / "tiny_weights_step1.ckpt", None, MindFormersChoices())
    for buffer in model.buffers():
        buffer.zero_()
    assert abs(loss(model, 0) - LOSSES[0]) < CLOSE


def test_rows_of_gate_and_up_take_turns() -> None:
    # Read as two halves, the same weights miss the logged loss by 3e-3 after three steps.
    model = loaded(*SOURCES["later"][:2], MindFormersChoices(is_interleaved=False))
    assert abs(loss(model, 3) - LOSSES[3]) > 100 * CLOSE


def test_a_run_can_start_from_the_converted_folder(tmp_path: Path) -> None:
    config = ModelConfig.model_validate(MODEL)
    choices = ReadChoices(model=config, at="1_3")
    conversion = Conversion(
        origin=RUN / "output",
        opened=format_of(RUN / "output").open(RUN / "output", choices),
        choices=choices,
        target=format_named("huggingface"),
        output=tmp_path / "hub",
    )
    ConversionPlan(conversion).run(lambda _: None)
    model = family_of(config).build(ModelConfig.model_validate(read_section(tmp_path / "hub")))
    read_weights(model.config, tmp_path / "hub", dict(model.named_parameters()) | dict(model.named_buffers()))
    expected = loaded(RUN / "output", "1_3", MindFormersChoices())
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), expected.parameters(), strict=True))
    assert all(torch.equal(one, two) for one, two in zip(model.buffers(), expected.buffers(), strict=True))
    assert abs(loss(model, 3) - LOSSES[3]) < CLOSE


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A checkpoint of which only names, types and shapes were kept."""

    tensors: Mapping[str, StoredTensor]
    place: Path = GOLDENS / "run_samples" / "checkpoint_tensors.json"
    files: tuple[Path, ...] = ()

    def read(self, name: str) -> Tensor:
        raise AssertionError(f"{name} is listed without values")


def test_every_tensor_of_another_run_is_known() -> None:
    listed = json.loads(Listed.place.read_text())["tensors"]
    source = Listed(
        tensors={name: StoredTensor(shape=tuple(shape), dtype=DTYPES[dtype]) for name, (dtype, shape) in listed.items()}
    )
    attention = {**MODEL["attention"], "q_lora_rank": 128, "kv_lora_rank": 64, "qk_nope_head_dim": 64}
    experts = {"intermediate_size": 768, "moe_intermediate_size": 256, "n_routed_experts": 8}
    config = ModelConfig.model_validate(
        {
            **MODEL,
            "vocab_size": 8192,
            "hidden_size": 256,
            "num_hidden_layers": 3,
            "attention": {**attention, "qk_rope_head_dim": 32, "v_head_dim": 64},
            "feed_forward": {**MODEL["feed_forward"], **experts},
        }
    )
    weights = named_weights(config, source, MindFormersChoices())
    weights.require_match(family_of(config).shapes(config))
    taken = {name for entry in weights.table.entries(family_of(config).shapes(config)) for name in entry.theirs}
    assert taken | set(weights.others) == set(listed)
    assert not taken & set(weights.others)
    assert sum(name.startswith(("adam_m.", "adam_v.")) for name in weights.others) == 2 * (len(taken) - 3)
