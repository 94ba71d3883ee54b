"""Hugging Face's names for Llama: tensors as on the hub, and the fields of config.json."""

from typing import Any

from firstlight.config.model import DenseFeedForward, GroupedQueryAttention, Llama3Scaling, ModelConfig, Rope
from firstlight.models.names import NameTable, block_rows

BLOCK = (
    ("attention_norm.weight", "input_layernorm.weight"),
    ("attention.q_proj.weight", "self_attn.q_proj.weight"),
    ("attention.k_proj.weight", "self_attn.k_proj.weight"),
    ("attention.v_proj.weight", "self_attn.v_proj.weight"),
    ("attention.o_proj.weight", "self_attn.o_proj.weight"),
    ("feed_forward_norm.weight", "post_attention_layernorm.weight"),
    ("feed_forward.gate_proj.weight", "mlp.gate_proj.weight"),
    ("feed_forward.up_proj.weight", "mlp.up_proj.weight"),
    ("feed_forward.down_proj.weight", "mlp.down_proj.weight"),
)

ROWS = (
    ("embedding.weight", "model.embed_tokens.weight"),
    *block_rows(BLOCK, "layers.{layer}.", "model.layers.{layer}."),
    ("output_norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
)


def name_table(model: ModelConfig) -> NameTable:
    """The hub's tensor names."""
    return NameTable(rows=ROWS, num_hidden_layers=model.num_hidden_layers)


def config_json(model: ModelConfig) -> dict[str, Any]:
    """config.json for LlamaForCausalLM."""
    attention, feed_forward = model.attention, model.feed_forward
    assert isinstance(attention, GroupedQueryAttention), "a rule of the configuration"
    assert isinstance(feed_forward, DenseFeedForward), "a rule of the configuration"
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": feed_forward.intermediate_size,
        "num_hidden_layers": model.num_hidden_layers,
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.rms_norm_eps,
        "tie_word_embeddings": model.tie_word_embeddings,
        "initializer_range": model.initializer_range,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "num_attention_heads": attention.num_attention_heads,
        "num_key_value_heads": attention.num_key_value_heads,
        "head_dim": attention.head_dim,
        "rope_parameters": _rope_parameters(attention.rope),
    }


def _rope_parameters(rope: Rope) -> dict[str, Any]:
    if not isinstance(rope.scaling, Llama3Scaling):
        return {"rope_type": "default", "rope_theta": rope.theta}
    return {"rope_type": "llama3", "rope_theta": rope.theta, **rope.scaling.model_dump(exclude={"kind"})}
