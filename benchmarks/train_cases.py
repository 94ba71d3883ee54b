"""The models that are trained side by side, as Firstlight's `model` sections; peers translate these. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from firstlight.config.model import ModelConfig
from firstlight.layout.counts import count_parameters, flops_per_token

VOCABULARY_SIZE = 8192
SEQUENCE_LENGTH = 512
BATCH_SIZE = 8

DENSE: Mapping[str, Any] = {
    "family": "llama",
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 384,
    "num_hidden_layers": 8,
    "max_position_embeddings": SEQUENCE_LENGTH,
    "attention": {"kind": "gqa", "num_attention_heads": 6},
    "feed_forward": {"kind": "dense", "intermediate_size": 1536},
}
"""25.17 M parameters, 141.6 MFLOP per token."""

MOE: Mapping[str, Any] = {
    "family": "deepseek_v3",
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "max_position_embeddings": SEQUENCE_LENGTH,
    "attention": {
        "kind": "mla",
        "num_attention_heads": 8,
        "q_lora_rank": 96,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
    },
    "feed_forward": {
        "kind": "moe",
        "first_k_dense_replace": 1,
        "intermediate_size": 768,
        "moe_intermediate_size": 128,
        "n_routed_experts": 16,
        "n_shared_experts": 1,
        "router": {"num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5},
    },
}
"""14.25 M parameters, 43.4 MFLOP per token: DeepSeek-V3's choices, small."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, and what is given to it in a step."""

    name: str
    model: Mapping[str, Any]
    batch_size: int = BATCH_SIZE
    sequence_length: int = SEQUENCE_LENGTH
    recomputes: bool = False
    """Whether layers are computed again in the backward pass, in whatever way each program does that."""
    processes: int = 1
    sections: Mapping[str, Any] = field(default_factory=dict)
    """Of Firstlight's configuration, beside what every run has."""

    @property
    def tokens_per_step(self) -> int:
        """Of an optimizer step."""
        return self.batch_size * self.sequence_length

    @property
    def parameters(self) -> int:
        """By Firstlight's own count, to which every program is held."""
        return count_parameters(self._config).total

    @property
    def flops_per_token(self) -> float:
        """Forward and backward: 6 for each matrix parameter that a token meets, the causal half of attention, the
        head; not the look-up of embeddings, no recomputation. The formula is that of `firstlight` (`layout/counts`).
        """
        return flops_per_token(self._config, self.sequence_length)

    @property
    def _config(self) -> ModelConfig:
        return ModelConfig.model_validate(dict(self.model))


CASES = {"dense": Case(name="dense", model=DENSE), "moe": Case(name="moe", model=MOE)}
