"""Configurations of tiny models, and models filled so that no weight may be forgotten unseen."""

from collections.abc import Mapping
from typing import Any

import torch

from firstlight.config.model import ModelConfig
from firstlight.models.decoder import Decoder
from firstlight.models.family import family_of

Changes = Mapping[str, Any]

NONE: Changes = {}
LATENT_ATTENTION: Changes = {
    "kind": "mla",
    "num_attention_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
MIXTURE: Changes = {
    "kind": "moe",
    "first_k_dense_replace": 1,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "router": {"num_experts_per_tok": 2, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5},
}

_STD = 0.1
"""Wide enough for logits of about one and for scores of the router that differ."""


def deepseek(
    *, attention: Changes = NONE, feed_forward: Changes = NONE, router: Changes = NONE, **model: Any
) -> ModelConfig:
    """DeepSeek-V3 with eight experts in four groups; the changes go over the defaults of each section.

    A dense `feed_forward` takes the place of the experts.
    """
    mixture = {**MIXTURE, "router": {**MIXTURE["router"], **router}, **feed_forward}
    values = {
        "family": "deepseek_v3",
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "attention": {**LATENT_ATTENTION, **attention},
        "feed_forward": feed_forward if feed_forward.get("kind") == "dense" else mixture,
        **model,
    }
    return ModelConfig.model_validate(values)


def llama(*, attention: Changes = NONE, **model: Any) -> ModelConfig:
    """Llama with two query heads to each key/value head."""
    values = {
        "family": "llama",
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "attention": {"kind": "gqa", "num_attention_heads": 4, "num_key_value_heads": 2, **attention},
        "feed_forward": {"kind": "dense", "intermediate_size": 48},
        **model,
    }
    return ModelConfig.model_validate(values)


_SIZES: Changes = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3}
_HEADS: Changes = {"kind": "gqa", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12}
_DENSE: Changes = {"kind": "dense", "intermediate_size": 48}
_SOFTMAX: Changes = {
    **MIXTURE,
    "n_shared_experts": 0,
    "first_k_dense_replace": 0,
    "intermediate_size": None,
    "router": {"scoring": "softmax", "num_experts_per_tok": 2},
}
_WINDOW: Changes = {"size": 4, "full_every": 2}

OTHER_FAMILIES: Mapping[str, Changes] = {
    "qwen2": {"attention": {**_HEADS, "bias": "qkv", "window": {"size": 4, "first_layer": 1}}, "feed_forward": _DENSE},
    "qwen3": {"attention": {**_HEADS, "qk_norm": "per_head"}, "feed_forward": _DENSE, "tie_word_embeddings": True},
    "qwen3_moe": {
        "attention": {**_HEADS, "qk_norm": "per_head", "bias": "all"},
        "feed_forward": {**_SOFTMAX, "first_k_dense_replace": 1, "intermediate_size": 48},
    },
    "glm4": {
        "norms": "sandwich",
        "attention": {**_HEADS, "bias": "qkv", "rope": {"layout": "interleaved", "partial_rotary_factor": 0.5}},
        "feed_forward": _DENSE,
    },
    "glm4_moe": {
        "attention": {**_HEADS, "bias": "qkv", "qk_norm": "per_head", "rope": {"partial_rotary_factor": 0.5}},
        "feed_forward": MIXTURE,
        "multi_token_prediction": {},
    },
    "mistral": {"attention": {**_HEADS, "window": {"size": 5}}, "feed_forward": _DENSE},
    "mixtral": {"attention": {**_HEADS, "window": {"size": 5}}, "feed_forward": _SOFTMAX},
    "deepseek_v2": {
        "attention": {**LATENT_ATTENTION, "q_lora_rank": None},
        "feed_forward": {
            **MIXTURE,
            "n_shared_experts": 2,
            "router": {"scoring": "softmax", "num_experts_per_tok": 2, "norm_topk_prob": False, "n_group": 4}
            | {"topk_group": 2, "routed_scaling_factor": 16.0},
        },
    },
    "gpt_oss": {
        "attention": {**_HEADS, "bias": "all", "has_sinks": True, "window": _WINDOW},
        "feed_forward": {
            **_SOFTMAX,
            "has_expert_bias": True,
            "activation": {"kind": "clamped_swiglu", "limit": 0.3},
            "router": {"scoring": "topk_softmax", "num_experts_per_tok": 2},
        },
    },
}
"""The families beside DeepSeek-V3 and Llama, with what sets each one apart."""


def of_family(family: str, **model: Any) -> ModelConfig:
    """A tiny model of one of the other families; the changes go over its section."""
    return ModelConfig.model_validate({**_SIZES, "family": family, **OTHER_FAMILIES[family], **model})


def meta_model(config: ModelConfig) -> Decoder:
    """The model without memory."""
    with torch.device("meta"):
        return family_of(config).build(config)


def filled(config: ModelConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Decoder:
    """The model with random values everywhere: norms about one, the router's biases about zero, never equal."""
    model = family_of(config).build(config)
    randomise(model, seed=seed)
    return model.to(dtype)


@torch.no_grad()
def randomise(model: Decoder, *, seed: int) -> None:
    """Fill parameters and buffers."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * _STD
        parameter.copy_(drawn if parameter.ndim > 1 else 1 + drawn)
    for buffer in model.buffers():
        buffer.copy_(torch.randn(buffer.shape, generator=generator) * _STD)


def random_tokens(*shape: int, vocab_size: int = 96, seed: int = 0) -> torch.Tensor:
    """Token ids."""
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))
