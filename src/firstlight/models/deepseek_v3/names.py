"""Hugging Face's names for DeepSeek-V3: tensors as on the hub, and the fields of config.json."""

from typing import Any

from firstlight.config.model import ModelConfig, MoeFeedForward, MultiHeadLatentAttention, Rope, YarnScaling
from firstlight.models.layers import yarn_multiplier
from firstlight.models.names import NameTable, block_rows

BLOCK = (
    ("attention_norm.weight", "input_layernorm.weight"),
    ("attention.q_proj.weight", "self_attn.q_proj.weight"),
    ("attention.q_a_proj.weight", "self_attn.q_a_proj.weight"),
    ("attention.q_a_norm.weight", "self_attn.q_a_layernorm.weight"),
    ("attention.q_b_proj.weight", "self_attn.q_b_proj.weight"),
    ("attention.kv_a_proj.weight", "self_attn.kv_a_proj_with_mqa.weight"),
    ("attention.kv_a_norm.weight", "self_attn.kv_a_layernorm.weight"),
    ("attention.kv_b_proj.weight", "self_attn.kv_b_proj.weight"),
    ("attention.o_proj.weight", "self_attn.o_proj.weight"),
    ("feed_forward_norm.weight", "post_attention_layernorm.weight"),
    ("feed_forward.gate_proj.weight", "mlp.gate_proj.weight"),
    ("feed_forward.up_proj.weight", "mlp.up_proj.weight"),
    ("feed_forward.down_proj.weight", "mlp.down_proj.weight"),
    ("feed_forward.router.weight", "mlp.gate.weight"),
    ("feed_forward.router.bias", "mlp.gate.e_score_correction_bias"),
    ("feed_forward.experts.gate_proj", "mlp.experts.{expert}.gate_proj.weight"),
    ("feed_forward.experts.up_proj", "mlp.experts.{expert}.up_proj.weight"),
    ("feed_forward.experts.down_proj", "mlp.experts.{expert}.down_proj.weight"),
    ("feed_forward.shared_expert.gate_proj.weight", "mlp.shared_experts.gate_proj.weight"),
    ("feed_forward.shared_expert.up_proj.weight", "mlp.shared_experts.up_proj.weight"),
    ("feed_forward.shared_expert.down_proj.weight", "mlp.shared_experts.down_proj.weight"),
)

ROWS = (
    ("embedding.weight", "model.embed_tokens.weight"),
    *block_rows(BLOCK, "layers.{layer}.", "model.layers.{layer}."),
    ("output_norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
    ("mtp.{depth}.embedding_norm.weight", "model.layers.{mtp_layer}.enorm.weight"),
    ("mtp.{depth}.hidden_norm.weight", "model.layers.{mtp_layer}.hnorm.weight"),
    ("mtp.{depth}.projection.weight", "model.layers.{mtp_layer}.eh_proj.weight"),
    *block_rows(BLOCK, "mtp.{depth}.block.", "model.layers.{mtp_layer}."),
    ("mtp.{depth}.output_norm.weight", "model.layers.{mtp_layer}.shared_head.norm.weight"),
)


def name_table(model: ModelConfig) -> NameTable:
    """The hub's tensor names; MTP layers are numbered after the last layer and repeat embedding and head."""
    depths = model.multi_token_prediction.num_layers if model.multi_token_prediction else 0
    head = "embedding.weight" if model.tie_word_embeddings else "head.weight"
    copies = {}
    for layer in range(model.num_hidden_layers, model.num_hidden_layers + depths):
        copies[f"model.layers.{layer}.embed_tokens.weight"] = "embedding.weight"
        copies[f"model.layers.{layer}.shared_head.head.weight"] = head
    experts = model.feed_forward.n_routed_experts if isinstance(model.feed_forward, MoeFeedForward) else 0
    return NameTable(rows=ROWS, num_hidden_layers=model.num_hidden_layers, num_experts=experts, copies=copies)


def config_json(model: ModelConfig) -> dict[str, Any]:
    """config.json for DeepseekV3ForCausalLM."""
    attention, feed_forward = model.attention, model.feed_forward
    assert isinstance(attention, MultiHeadLatentAttention), "a rule of the configuration"
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_nextn_predict_layers": model.multi_token_prediction.num_layers if model.multi_token_prediction else 0,
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.rms_norm_eps,
        "tie_word_embeddings": model.tie_word_embeddings,
        "initializer_range": model.initializer_range,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "num_attention_heads": attention.num_attention_heads,
        "num_key_value_heads": attention.num_attention_heads,
        "q_lora_rank": attention.q_lora_rank,
        "kv_lora_rank": attention.kv_lora_rank,
        "qk_nope_head_dim": attention.qk_nope_head_dim,
        "qk_rope_head_dim": attention.qk_rope_head_dim,
        "v_head_dim": attention.v_head_dim,
        "rope_interleave": True,
        "rope_parameters": _rope_parameters(attention.rope),
        **_feed_forward_json(model, feed_forward),
    }


def _feed_forward_json(model: ModelConfig, feed_forward: Any) -> dict[str, Any]:
    if not isinstance(feed_forward, MoeFeedForward):
        # The class knows no dense model: every layer is one of the leading dense ones.
        return {"intermediate_size": feed_forward.intermediate_size, "first_k_dense_replace": model.num_hidden_layers}
    router = feed_forward.router
    return {
        "intermediate_size": feed_forward.intermediate_size or feed_forward.moe_intermediate_size,
        "moe_intermediate_size": feed_forward.moe_intermediate_size,
        "first_k_dense_replace": feed_forward.first_k_dense_replace,
        "n_routed_experts": feed_forward.n_routed_experts,
        "n_shared_experts": feed_forward.n_shared_experts,
        "num_experts_per_tok": router.num_experts_per_tok,
        "n_group": router.n_group,
        "topk_group": router.topk_group,
        "norm_topk_prob": router.norm_topk_prob,
        "routed_scaling_factor": router.routed_scaling_factor,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }


def _rope_parameters(rope: Rope) -> dict[str, Any]:
    if not isinstance(rope.scaling, YarnScaling):
        return {"rope_type": "default", "rope_theta": rope.theta}
    return {
        "rope_type": "yarn",
        "rope_theta": rope.theta,
        **rope.scaling.model_dump(exclude={"kind"}),
        # Said outright: where mscale_all_dim is 0, transformers derives another one from mscale than DeepSeek does.
        "attention_factor": yarn_multiplier(rope.scaling),
    }
