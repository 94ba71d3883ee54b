"""Runs that are made dry, and for real by as many processes as they have ranks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.config.model import ModelConfig
from firstlight.config.schema import RunConfig
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, of_family

LENGTH = 32
_ROUTER = {"force_balance": "round_robin"}
"""Dry runs have even shares of experts."""
_GPT_OSS = OTHER_FAMILIES["gpt_oss"]["feed_forward"]
DEEPSEEK = deepseek(multi_token_prediction={}, num_hidden_layers=4, router=_ROUTER)
GPT_OSS = of_family("gpt_oss", feed_forward={**_GPT_OSS, "router": {**_GPT_OSS["router"], **_ROUTER}})
TIED = llama(tie_word_embeddings=True, num_hidden_layers=4)


@dataclass(frozen=True, kw_only=True)
class DryCase:
    """A run on so many ranks; `changes` are sections of its configuration."""

    ranks: int
    model: ModelConfig = DEEPSEEK
    parallelism: Mapping[str, Any]
    changes: Mapping[str, Mapping[str, Any]]

    @property
    def config(self) -> RunConfig:
        """The whole of it."""
        sections: dict[str, Any] = {
            "model": self.model.model_dump(mode="json"),
            "data": {
                "train": {"sources": [{"path": "data"}], "sequence_length": LENGTH},
                "tokenizer": "tokenizer.json",
            },
            "optimizer": {"type": "adamw", "learning_rate": 0.01},
            "parallelism": dict(self.parallelism),
            **{name: dict(values) for name, values in self.changes.items()},
        }
        training = {"steps": 4, "global_batch_size": 16, "micro_batch_size": 1, "output_folder": "run"}
        sections["training"] = {**training, **sections.get("training", {})}
        return RunConfig.model_validate(sections)


def _case(ranks: int, model: ModelConfig = DEEPSEEK, /, **sections: Mapping[str, Any]) -> DryCase:
    parallelism = sections.pop("parallelism")
    return DryCase(ranks=ranks, model=model, parallelism=parallelism, changes=sections)


QUICK: Mapping[str, DryCase] = {
    "tp2_dp2_ep4": _case(
        4,
        parallelism={"tensor_parallel": 2, "expert_parallel": 4},
        recompute={"kind": "selective"},
        averages={"ema": {}},
    ),
    "pp2_cp2_zbv": _case(
        4,
        parallelism={
            "pipeline_parallel": 2,
            "context_parallel": 2,
            "pipeline": {"schedule": "zbv_zero_bubble"},
        },
        training={"global_batch_size": 4},
    ),
    "replicated_muon_bf16": _case(
        4,
        parallelism={"data_parallel_replicate": 2, "data_parallel_shard": 2, "sharded": "optimizer"},
        optimizer={"type": "muon", "learning_rate": 0.01, "moments": "bf16"},
    ),
}
SLOW: Mapping[str, DryCase] = {
    "dp3": _case(3, parallelism={}, training={"global_batch_size": 6}),
    "etp2_gpt_oss": _case(4, GPT_OSS, parallelism={"expert_parallel": 2, "expert_tensor_parallel": 2}),
    "cp4_heads": _case(4, parallelism={"context_parallel": 4, "context": {"kind": "mixed", "all_to_all": 2}}),
    "pp4_tied": _case(4, TIED, parallelism={"pipeline_parallel": 4}),
    "pp2_dp2_interleaved_bf16": _case(
        4,
        TIED,
        parallelism={"pipeline_parallel": 2, "pipeline": {"schedule": "interleaved_1f1b"}},
        training={"precision": "bf16"},
    ),
    "pp2_tp2_dualpipe": _case(
        4,
        parallelism={
            "pipeline_parallel": 2,
            "tensor_parallel": 2,
            "pipeline": {"schedule": "dualpipe_v", "split": {"kind": "layers", "layers": [1, 1, 1, 1]}},
        },
        recompute={"kind": "full"},
    ),
    "pp2_dp2_ep2_gpipe": _case(
        4, parallelism={"pipeline_parallel": 2, "expert_parallel": 2, "pipeline": {"schedule": "gpipe"}}
    ),
    "all_axes": _case(
        8, parallelism={"pipeline_parallel": 2, "tensor_parallel": 2, "context_parallel": 2, "expert_parallel": 4}
    ),
}
CASES: Mapping[str, DryCase] = {**QUICK, **SLOW}
