"""Tiny models in two configurations: ours, and transformers' own."""

from dataclasses import dataclass
from typing import Any

from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from firstlight.config.model import ModelConfig

VOCABULARY = 300
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 4, "max_position_embeddings": 256}
# Large, so that a norm that has another one's shows.
EPS = 1e-3
LATENT = {
    "num_attention_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
EXPERTS = {
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
ROUTER = {"num_experts_per_tok": 2, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": True}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model in both configurations, each written as its own users would."""

    ours: ModelConfig
    theirs: type[PreTrainedModel]
    config: Any


def deepseek(
    *,
    yarn: dict[str, float] | None = None,
    latent: dict[str, Any] | None = None,
    experts: dict[str, Any] | None = None,
    router: dict[str, Any] | None = None,
    depths: int = 0,
    is_dense: bool = False,
) -> Case:
    latent, experts, router = {**LATENT, **(latent or {})}, {**EXPERTS, **(experts or {})}, {**ROUTER, **(router or {})}
    mixture: dict[str, Any] = {"kind": "moe", **experts, "router": router}
    dense: dict[str, Any] = {"kind": "dense", "intermediate_size": 96}
    ours = ModelConfig.model_validate(
        {
            **SIZES,
            "family": "deepseek_v3",
            "rms_norm_eps": EPS,
            "attention": {
                "kind": "mla",
                **latent,
                "rope": {"theta": 20000.0, "scaling": yarn and {"kind": "yarn", **YARN, **yarn}},
            },
            "feed_forward": dense if is_dense else mixture,
            "multi_token_prediction": {"num_layers": depths} if depths else None,
        }
    )
    rope = {"rope_type": "yarn", **YARN, **yarn} if yarn else {"rope_type": "default"}
    theirs = DeepseekV3Config(
        **SIZES,
        **latent,
        **(experts | ({"first_k_dense_replace": 4} if is_dense else {})),
        **router,
        rms_norm_eps=EPS,
        rope_interleave=True,
        rope_parameters={"rope_theta": 20000.0, **rope},
        num_key_value_heads=4,
        num_nextn_predict_layers=depths,
        initializer_range=0.1,
    )
    return Case(ours=ours, theirs=DeepseekV3ForCausalLM, config=theirs)


def llama(
    *, scaling: dict[str, float] | None = None, is_tied: bool = False, key_heads: int = 2, width: int = 16
) -> Case:
    ours = ModelConfig.model_validate(
        {
            **SIZES,
            "family": "llama",
            "rms_norm_eps": EPS,
            "tie_word_embeddings": is_tied,
            "attention": {
                "kind": "gqa",
                "num_attention_heads": 4,
                "num_key_value_heads": key_heads,
                "head_dim": width,
                "rope": {"theta": 500000.0, "scaling": scaling and {"kind": "llama3", **scaling}},
            },
            "feed_forward": {"kind": "dense", "intermediate_size": 96},
        }
    )
    rope = {"rope_type": "llama3", **scaling} if scaling else {"rope_type": "default"}
    theirs = LlamaConfig(
        **SIZES,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        head_dim=width,
        rms_norm_eps=EPS,
        tie_word_embeddings=is_tied,
        rope_parameters={"rope_theta": 500000.0, **rope},
        initializer_range=0.1,
    )
    return Case(ours=ours, theirs=LlamaForCausalLM, config=theirs)


CASES = {
    "deepseek_yarn": deepseek(yarn={"mscale": 1.0, "mscale_all_dim": 1.0}),
    # The two temperatures differ, so the table is multiplied by their ratio.
    "deepseek_yarn_ratio": deepseek(yarn={"mscale": 0.707, "mscale_all_dim": 1.0}),
    "deepseek_plain": deepseek(latent={"q_lora_rank": None}, experts={"n_shared_experts": 2}),
    "deepseek_ungrouped": deepseek(
        latent={"v_head_dim": 32},
        experts={"first_k_dense_replace": 0},
        router={"n_group": 1, "topk_group": 1, "norm_topk_prob": False},
    ),
    "deepseek_dense": deepseek(is_dense=True),
    "llama3": llama(scaling=LLAMA3, width=24),
    "llama_tied": llama(is_tied=True, key_heads=4),
}
EXPORTED = {
    **{name: CASES[name] for name in ("deepseek_yarn", "deepseek_plain", "deepseek_dense", "llama3", "llama_tied")},
    "deepseek_no_shared": deepseek(experts={"n_shared_experts": 0}),
    # DeepSeek's own code takes the temperature of a zero for one; transformers then leaves out the other one, too.
    "deepseek_yarn_table_only": deepseek(yarn={"mscale": 0.707, "mscale_all_dim": 0.0}),
}
MTP = deepseek(yarn={"mscale": 1.0, "mscale_all_dim": 1.0}, depths=2)
