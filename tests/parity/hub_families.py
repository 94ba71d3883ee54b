"""Tiny models of the families beside DeepSeek-V3 and Llama, in two configurations: ours, and transformers' own."""

from typing import Any

from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from firstlight.config.model import ModelConfig
from tests.parity.hub_cases import EPS, LATENT, SIZES, YARN, Case

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24}
THETA = 30000.0
DENSE = {"kind": "dense", "intermediate_size": 96}
NO_YARN = {"rope_type": "default", "rope_theta": THETA}


def ours(family: str, **model: Any) -> ModelConfig:
    return ModelConfig.model_validate({**SIZES, "family": family, "rms_norm_eps": EPS, **model})


def heads(rope: dict[str, Any] | None = None, **choices: Any) -> dict[str, Any]:
    return {"kind": "gqa", **HEADS, "rope": {"theta": THETA, **(rope or {})}, **choices}


def theirs(config: Any, **values: Any) -> Any:
    """A configuration of transformers; the values go over those that all families have."""
    return config(
        **{**SIZES, **HEADS, "rms_norm_eps": EPS, "initializer_range": 0.1, "rope_parameters": NO_YARN, **values}
    )


def qwen2(*, slides_from: int | None = None) -> Case:
    window = None if slides_from is None else {"size": 8, "first_layer": slides_from}
    there = {} if slides_from is None else {"use_sliding_window": True, "sliding_window": 8}
    sizes = {"head_dim": 16}  # the class has no width of its own: hidden size over heads
    return Case(
        ours=ours("qwen2", attention={**heads(bias="qkv", window=window), **sizes}, feed_forward=DENSE),
        theirs=Qwen2ForCausalLM,
        config=theirs(Qwen2Config, intermediate_size=96, max_window_layers=slides_from or 28, **there, **sizes),
    )


def qwen3(*, has_bias: bool = False, is_tied: bool = False, is_stretched: bool = False) -> Case:
    yarn = {"factor": 4.0, "original_max_position_embeddings": 64}
    scaling = {"scaling": {"kind": "yarn", **yarn}} if is_stretched else {}
    attention = heads(scaling, bias="all" if has_bias else "none", qk_norm="per_head")
    return Case(
        ours=ours("qwen3", attention=attention, feed_forward=DENSE, tie_word_embeddings=is_tied),
        theirs=Qwen3ForCausalLM,
        config=theirs(
            Qwen3Config,
            intermediate_size=96,
            attention_bias=has_bias,
            tie_word_embeddings=is_tied,
            rope_parameters={"rope_type": "yarn", "rope_theta": THETA, **yarn} if is_stretched else NO_YARN,
        ),
    )


def qwen3_moe(*, is_normalised: bool = True, dense: int = 0, window: int | None = None) -> Case:
    mixture = {
        "kind": "moe",
        "first_k_dense_replace": dense,
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 0,
        "router": {"scoring": "softmax", "num_experts_per_tok": 2, "norm_topk_prob": is_normalised},
    }
    attention = heads(qk_norm="per_head", window=window and {"size": window})
    return Case(
        ours=ours("qwen3_moe", attention=attention, feed_forward=mixture),
        theirs=Qwen3MoeForCausalLM,
        config=theirs(
            Qwen3MoeConfig,
            intermediate_size=96,
            moe_intermediate_size=32,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=is_normalised,
            mlp_only_layers=list(range(dense)),
            use_sliding_window=window is not None,
            sliding_window=window,
        ),
    )


def glm4(*, has_bias: bool = True) -> Case:
    rope = {"layout": "interleaved", "partial_rotary_factor": 0.5}
    return Case(
        ours=ours(
            "glm4",
            norms="sandwich",
            attention=heads(rope, bias="qkv" if has_bias else "none"),
            feed_forward=DENSE,
        ),
        theirs=Glm4ForCausalLM,
        config=theirs(
            Glm4Config,
            intermediate_size=96,
            attention_bias=has_bias,
            pad_token_id=None,
            rope_parameters={**NO_YARN, "partial_rotary_factor": 0.5},
        ),
    )


def glm4_moe(*, is_355b: bool = True, depths: int = 0) -> Case:
    """Both released sizes: the large one normalises queries and keys and scales the experts."""
    scale = 2.5 if is_355b else 1.0
    mixture = {
        "kind": "moe",
        "first_k_dense_replace": 1,
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "router": {"num_experts_per_tok": 2, "routed_scaling_factor": scale},
    }
    attention = heads({"partial_rotary_factor": 0.5}, bias="qkv", qk_norm="per_head" if is_355b else "none")
    return Case(
        ours=ours(
            "glm4_moe",
            attention=attention,
            feed_forward=mixture,
            multi_token_prediction={"num_layers": depths} if depths else None,
        ),
        theirs=Glm4MoeForCausalLM,
        config=theirs(
            Glm4MoeConfig,
            intermediate_size=96,
            moe_intermediate_size=32,
            n_routed_experts=8,
            n_shared_experts=1,
            num_experts_per_tok=2,
            first_k_dense_replace=1,
            routed_scaling_factor=scale,
            attention_bias=True,
            use_qk_norm=is_355b,
            num_nextn_predict_layers=depths,
            rope_parameters={**NO_YARN, "partial_rotary_factor": 0.5},
        ),
    )


def mistral(*, window: int | None = None) -> Case:
    return Case(
        ours=ours("mistral", attention=heads(window=window and {"size": window}), feed_forward=DENSE),
        theirs=MistralForCausalLM,
        config=theirs(MistralConfig, intermediate_size=96, sliding_window=window),
    )


def mixtral(*, window: int | None = None) -> Case:
    mixture = {
        "kind": "moe",
        "moe_intermediate_size": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 0,
        "router": {"scoring": "softmax", "num_experts_per_tok": 2},
    }
    return Case(
        ours=ours("mixtral", attention=heads(window=window and {"size": window}), feed_forward=mixture),
        theirs=MixtralForCausalLM,
        config=theirs(
            MixtralConfig, intermediate_size=32, num_local_experts=8, num_experts_per_tok=2, sliding_window=window
        ),
    )


def deepseek_v2(*, is_lite: bool = True) -> Case:
    latent = {**LATENT, "q_lora_rank": None} if is_lite else LATENT
    groups = {"n_group": 1, "topk_group": 1} if is_lite else {"n_group": 4, "topk_group": 2}
    experts = {
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
    }
    scale = 1.0 if is_lite else 16.0
    router = {"num_experts_per_tok": 3, "norm_topk_prob": False, "routed_scaling_factor": scale, **groups}
    yarn = {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}
    return Case(
        ours=ours(
            "deepseek_v2",
            attention={"kind": "mla", **latent, "rope": {"theta": THETA, "scaling": {"kind": "yarn", **yarn}}},
            feed_forward={"kind": "moe", **experts, "router": {"scoring": "softmax", **router}},
        ),
        theirs=DeepseekV2ForCausalLM,
        config=theirs(
            DeepseekV2Config,
            **(latent | {"num_key_value_heads": 4}),
            **experts,
            **router,
            topk_method="greedy" if is_lite else "group_limited_greedy",
            rope_parameters={"rope_type": "yarn", "rope_theta": THETA, **yarn},
        ),
    )


def gpt_oss(*, layer_types: str = "SFSF") -> Case:
    """`layer_types`: S for a layer that slides, F for one that sees everything."""
    window = {"SFSF": {"size": 8, "full_every": 2}, "FFFF": None, "SSSS": {"size": 8}}[layer_types]
    scaling = {"factor": 4.0, "original_max_position_embeddings": 64, "truncate": False}
    return Case(
        ours=ours(
            "gpt_oss",
            attention=heads({"scaling": {"kind": "yarn", **scaling}}, bias="all", has_sinks=True, window=window),
            feed_forward={
                "kind": "moe",
                "moe_intermediate_size": 32,
                "n_routed_experts": 8,
                "n_shared_experts": 0,
                "has_expert_bias": True,
                # So low that many values meet it.
                "activation": {"kind": "clamped_swiglu", "limit": 0.5},
                "router": {"scoring": "topk_softmax", "num_experts_per_tok": 2},
            },
        ),
        theirs=GptOssForCausalLM,
        config=theirs(
            GptOssConfig,
            intermediate_size=32,
            num_local_experts=8,
            num_experts_per_tok=2,
            swiglu_limit=0.5,
            sliding_window=8 if window else 128,
            layer_types=["sliding_attention" if kind == "S" else "full_attention" for kind in layer_types],
            rope_parameters={"rope_type": "yarn", "rope_theta": THETA, **scaling},
        ),
    )


FAMILY_CASES = {
    "qwen2": qwen2(),
    "qwen2_window": qwen2(slides_from=2),
    "qwen3": qwen3(),
    "qwen3_bias_tied": qwen3(has_bias=True, is_tied=True),
    "qwen3_yarn": qwen3(is_stretched=True),
    "qwen3_moe": qwen3_moe(dense=1),
    "qwen3_moe_raw": qwen3_moe(is_normalised=False, window=8),
    "glm4": glm4(),
    "glm4_no_bias": glm4(has_bias=False),
    "glm4_moe_355b": glm4_moe(),
    "glm4_moe_air": glm4_moe(is_355b=False),
    "mistral_window": mistral(window=8),
    "mixtral": mixtral(),
    "mixtral_window": mixtral(window=8),
    "deepseek_v2_lite": deepseek_v2(),
    "deepseek_v2": deepseek_v2(is_lite=False),
    "gpt_oss": gpt_oss(),
    "gpt_oss_full": gpt_oss(layer_types="FFFF"),
    "gpt_oss_window": gpt_oss(layer_types="SSSS"),
}
FAMILY_MTP = glm4_moe(depths=2)
