"""What MindFormers' model classes have where a file says nothing, and which of our families they are."""

from collections.abc import Mapping
from typing import Any

from firstlight.compat.old_file import Generation

FAMILIES: Mapping[str, str] = {
    "deepseekv3forcausallm": "deepseek_v3",
    "deepseekv3config": "deepseek_v3",
    "deepseek_v3": "deepseek_v3",
    "deepseekv3": "deepseek_v3",
    "deepseekv2forcausallm": "deepseek_v2",
    "deepseekv2config": "deepseek_v2",
    "deepseek_v2": "deepseek_v2",
    "qwen3forcausallm": "qwen3",
    "qwen3": "qwen3",
    "qwen3moeforcausallm": "qwen3_moe",
    "qwen3_moe": "qwen3_moe",
    "qwen2forcausallm": "qwen2",
    "qwen2": "qwen2",
    "llamaforcausallm": "llama",
    "parallelllamaforcausallm": "llama",
    "llamaconfig": "llama",
    "llama": "llama",
    "mixtralforcausallm": "mixtral",
    "mixtral": "mixtral",
    "mistralforcausallm": "mistral",
    "mistral": "mistral",
    "glm4forcausallm": "glm4",
    "glm4": "glm4",
    "glm4moeforcausallm": "glm4_moe",
    "glm4_moe": "glm4_moe",
    "telechat3forcausallm": "llama",
    "telechat3": "llama",
    "telechat3moeforcausallm": "deepseek_v3",
    "telechat3_moe": "deepseek_v3",
}
"""By model_type, architecture or legacy class, in small letters."""

LATENT = frozenset({"deepseek_v2", "deepseek_v3"})
WITH_WINDOWS = frozenset({"mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"})
WITH_EXPERTS = frozenset({"deepseek_v2", "deepseek_v3", "glm4_moe", "mixtral", "qwen3_moe"})

Defaults = Mapping[str, Any]

_DEEPSEEK_CORE: Defaults = {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "max_position_embeddings": 4096,
    "initializer_range": 0.02,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "num_mtp_layers": 1,
    "bias_is_on": True,
    "bias_update_rate": 0.001,
    "balance_weight": 0.0,
}
_DEEPSEEK_LEGACY: Defaults = {
    "vocab_size": 129280,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "max_position_embeddings": 32768,
    "sequence_length": 2048,
    "initializer_range": 0.006,
    "num_attention_heads": 32,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 1407,
    "n_routed_experts": 1,
    "n_shared_experts": 0,
    "num_experts_per_tok": 1,
    "routed_scaling_factor": 1.0,
    "num_mtp_layers": 0,
    "bias_is_on": False,
    "bias_update_rate": 0.0,
}
_QWEN3: Defaults = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "intermediate_size": 22016,
    "initializer_range": 0.02,
}
_QWEN3_MOE: Defaults = {
    **_QWEN3,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_key_value_heads": 4,
    "head_dim": None,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "n_routed_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}
_LLAMA_LEGACY: Defaults = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "sequence_length": 2048,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.01,
    "n_routed_experts": 1,
    "num_experts_per_tok": 1,
    "multiple_of": 256,
}
_EVERY: Defaults = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "initializer_range": 0.02,
    "n_shared_experts": 0,
    "first_k_dense_replace": 0,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "num_mtp_layers": 0,
    "mtp_loss_weight": 0.3,
    "bias_is_on": False,
    "bias_update_rate": 0.001,
    "balance_weight": 0.0,
    "sequence_length": 4096,
}

_OF_CLASS: Mapping[tuple[bool, str], Defaults] = {
    (True, "deepseek_v3"): _DEEPSEEK_LEGACY,
    (True, "deepseek_v2"): _DEEPSEEK_LEGACY,
    (True, "llama"): _LLAMA_LEGACY,
    (True, "mixtral"): _LLAMA_LEGACY,
    (True, "qwen2"): _LLAMA_LEGACY,
    (False, "deepseek_v3"): _DEEPSEEK_CORE,
    (False, "qwen3"): _QWEN3,
    (False, "qwen3_moe"): _QWEN3_MOE,
}


def defaults_of(generation: Generation, family: str) -> Defaults:
    """Values by fact of the class that `family` comes from."""
    return {**_EVERY, **_OF_CLASS.get((generation is Generation.LEGACY, family), {})}
