"""What a plan says of a rank's memory is what its dry run finds on the CPU, whose kernels it knows: within 3 %."""

from collections.abc import Mapping
from typing import Any

import pytest

from firstlight.config.model import ModelConfig
from firstlight.config.schema import RunConfig
from firstlight.plan.hardware import read_hardware
from firstlight.plan.memory import memory_of_places
from firstlight.plan.work import Work
from firstlight.train.dry_step import dry_step
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, of_family

TOLERANCE = 0.03
CPU = read_hardware("cpu")
_WIDE: Mapping[str, Any] = {"vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 8}
_LATENT = {
    "num_attention_heads": 8,
    "q_lora_rank": 192,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
_HEADS = {"kind": "gqa", "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32}
_DENSE = {"kind": "dense", "intermediate_size": 768}
_EVEN = {"num_experts_per_tok": 4, "force_balance": "round_robin"}
_SOFTMAX = {
    **OTHER_FAMILIES["qwen3_moe"]["feed_forward"],
    "first_k_dense_replace": 0,
    "intermediate_size": None,
    "moe_intermediate_size": 128,
    "n_routed_experts": 16,
    "router": {"scoring": "softmax", **_EVEN},
}
LLAMA = llama(**_WIDE, attention=_HEADS, feed_forward=_DENSE)
DEEPSEEK = deepseek(
    **_WIDE,
    attention=_LATENT,
    feed_forward={"intermediate_size": 1024, "moe_intermediate_size": 128, "n_routed_experts": 16},
    router=_EVEN,
    multi_token_prediction={},
)
QWEN = of_family("qwen3", **_WIDE, attention={**_HEADS, "qk_norm": "per_head"}, feed_forward=_DENSE)
QWEN_MOE = of_family("qwen3_moe", **_WIDE, attention={**_HEADS, "qk_norm": "per_head"}, feed_forward=_SOFTMAX)
GLM = of_family("glm4", **_WIDE, attention={**OTHER_FAMILIES["glm4"]["attention"], **_HEADS}, feed_forward=_DENSE)

Case = tuple[int, ModelConfig, Mapping[str, Any]]
"""Ranks, model, sections of the configuration."""


def _pipeline(schedule: str, **degrees: Any) -> Mapping[str, Any]:
    return {"parallelism": {"pipeline_parallel": 2, "pipeline": {"schedule": schedule}, **degrees}}


QUICK: Mapping[str, Case] = {
    "llama_pp4": (4, LLAMA, {"parallelism": {"pipeline_parallel": 4}}),
}
SLOW: Mapping[str, Case] = {
    "llama": (1, LLAMA, {}),
    "llama_dp4_bf16": (4, LLAMA, {"training": {"precision": "bf16"}}),
    "llama_dp4": (4, LLAMA, {}),
    "llama_dp4_optimizer": (4, LLAMA, {"parallelism": {"sharded": "optimizer"}}),
    "llama_dp4_gradients": (4, LLAMA, {"parallelism": {"sharded": "optimizer+gradients"}}),
    "llama_tp2": (4, LLAMA, {"parallelism": {"tensor_parallel": 2}}),
    "llama_cp2": (4, LLAMA, {"parallelism": {"context_parallel": 2}}),
    "llama_full": (4, LLAMA, {"recompute": {"kind": "full"}}),
    "llama_selective": (4, LLAMA, {"recompute": {"kind": "selective"}}),
    "llama_interleaved": (4, LLAMA, _pipeline("interleaved_1f1b")),
    "llama_gpipe": (4, LLAMA, _pipeline("gpipe")),
    "qwen3_dp4": (4, QWEN, {}),
    "qwen3_moe_ep4": (4, QWEN_MOE, {"parallelism": {"expert_parallel": 4}}),
    "qwen3_moe_pp2": (4, QWEN_MOE, _pipeline("1f1b", expert_parallel=2)),
    "glm4_tp2": (4, GLM, {"parallelism": {"tensor_parallel": 2}}),
    "deepseek_dp4": (4, DEEPSEEK, {}),
    "deepseek_ep4": (4, DEEPSEEK, {"parallelism": {"expert_parallel": 4}}),
    "deepseek_tp2_full": (
        4,
        DEEPSEEK,
        {"parallelism": {"tensor_parallel": 2, "expert_parallel": 4}, "recompute": {"kind": "full"}},
    ),
    "deepseek_pp2_ep2": (4, DEEPSEEK, _pipeline("1f1b", expert_parallel=2)),
    "deepseek_zbv": (4, DEEPSEEK, _pipeline("zbv_zero_bubble")),
    "deepseek_dualpipe": (4, DEEPSEEK, _pipeline("dualpipe_v", expert_parallel=2)),
    "deepseek_muon": (4, DEEPSEEK, {"optimizer": {"type": "muon", "learning_rate": 0.01}}),
}


def _config(model: ModelConfig, sections: Mapping[str, Any]) -> RunConfig:
    values = {
        "model": model.model_dump(mode="json"),
        "data": {"train": {"sources": [{"path": "data"}], "sequence_length": 512}, "tokenizer": "tokenizer.json"},
        "optimizer": {"type": "adamw", "learning_rate": 0.01},
        **sections,
    }
    training = {"steps": 4, "global_batch_size": 16, "micro_batch_size": 1, "output_folder": "run"}
    return RunConfig.model_validate({**values, "training": {**training, **values.get("training", {})}})


def _compare(case: Case) -> None:
    ranks, model, sections = case
    config = _config(model, sections)
    work = Work.of(config, ranks, CPU.kernels)
    memory = memory_of_places(work, CPU, work.orders, config.offload)
    for place in {0, work.layout.pp - 1}:
        # All micro-batches: a stage has a buffer for each that it receives.
        dry = dry_step(config, ranks, place * work.layout.stage_size, work.micro_batches)
        planned = memory[place].total - memory[place].reserve
        assert planned == pytest.approx(max(dry.most_bytes, dry.most_in_update_bytes), rel=TOLERANCE), place


@pytest.mark.parametrize("name", QUICK)
def test_plan_and_dry_run_agree(name: str) -> None:
    _compare(QUICK[name])


MISSED: Mapping[str, str] = {
    # Why is open.
    "llama_selective": "3.1 % too much",
    "llama_gpipe": "5.3 % too much",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.xfail(reason=MISSED[name], strict=True)] if name in MISSED else [])
        for name in SLOW
    ],
)
def test_plan_and_dry_run_agree_in_every_family_and_layout(name: str) -> None:
    _compare(SLOW[name])
