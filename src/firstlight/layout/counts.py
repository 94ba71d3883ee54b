"""Parameters and FLOPs from the model section alone."""

from dataclasses import dataclass

from firstlight.config.model import (
    GroupedQueryAttention,
    ModelConfig,
    MoeFeedForward,
    MultiHeadLatentAttention,
)

_FLOPS_PER_PARAMETER = 6
"""A multiply and an add forward, and twice that backward."""


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Trainable parameters: all of them, and those that one token passes through (embedding look-up left out).

    Both include the multi-token prediction layers.
    """

    total: int
    activated: int


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Exact counts; a test holds them against the built module."""
    embedding = model.vocab_size * model.hidden_size
    head = 0 if model.tie_word_embeddings else embedding
    depths = _depths(model)
    layers = range(model.num_hidden_layers + depths)
    norms = model.hidden_size * (1 + 3 * depths)
    shared = embedding + head + norms + depths * 2 * model.hidden_size**2
    total = shared + sum(_layer(model, layer, is_activated=False) for layer in layers)
    # Each MTP depth applies the head once more; the embedding is looked up, not multiplied.
    through_heads = embedding * (1 + depths)
    activated = through_heads + norms + depths * 2 * model.hidden_size**2
    activated += sum(_layer(model, layer, is_activated=True) for layer in layers)
    return ParameterCounts(total=total, activated=activated)


def flops_per_token(model: ModelConfig, sequence_length: int) -> float:
    """Floating-point operations of forward and backward for one token, without recomputation.

    Convention: 6 per activated matrix parameter, attention counted for the causal half only, embedding look-up not
    counted, output head (once more for each MTP depth) counted.
    """
    matrices = count_parameters(model).activated - _norm_parameters(model)
    layers = model.num_hidden_layers + _depths(model)
    attention = model.attention
    if isinstance(attention, MultiHeadLatentAttention):
        widths = attention.qk_head_dim + attention.v_head_dim
    else:
        widths = 2 * attention.head_dim
    causal_scores = layers * sequence_length * attention.num_attention_heads * widths / 2
    return _FLOPS_PER_PARAMETER * (matrices + causal_scores)


def _depths(model: ModelConfig) -> int:
    return model.multi_token_prediction.num_layers if model.multi_token_prediction else 0


def _layer(model: ModelConfig, layer: int, *, is_activated: bool) -> int:
    return _attention(model) + _attention_norms(model) + _feed_forward(model, layer, is_activated=is_activated)


def _attention(model: ModelConfig) -> int:
    """Matrix parameters of one attention."""
    hidden = model.hidden_size
    match model.attention:
        case GroupedQueryAttention() as gqa:
            return hidden * gqa.head_dim * 2 * (gqa.num_attention_heads + gqa.num_key_value_heads)
        case MultiHeadLatentAttention() as mla:
            heads = mla.num_attention_heads
            query_width = heads * mla.qk_head_dim
            query = hidden * query_width
            if mla.q_lora_rank is not None:
                query = hidden * mla.q_lora_rank + mla.q_lora_rank * query_width
            key_value = hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim)
            key_value += mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
            return query + key_value + heads * mla.v_head_dim * hidden


def _attention_norms(model: ModelConfig) -> int:
    """The two norms of a layer, and the norms of MLA's latents."""
    latents = 0
    if isinstance(model.attention, MultiHeadLatentAttention):
        latents = model.attention.kv_lora_rank + (model.attention.q_lora_rank or 0)
    return 2 * model.hidden_size + latents


def _feed_forward(model: ModelConfig, layer: int, *, is_activated: bool) -> int:
    feed_forward = model.feed_forward
    if not (isinstance(feed_forward, MoeFeedForward) and model.is_moe_layer(layer)):
        return 3 * model.hidden_size * (feed_forward.intermediate_size or 0)
    routed = feed_forward.router.num_experts_per_tok if is_activated else feed_forward.n_routed_experts
    expert = 3 * model.hidden_size * feed_forward.moe_intermediate_size
    router = model.hidden_size * feed_forward.n_routed_experts
    return router + expert * (routed + feed_forward.n_shared_experts)


def _norm_parameters(model: ModelConfig) -> int:
    depths = _depths(model)
    per_layer = _attention_norms(model)
    return model.hidden_size * (1 + 3 * depths) + per_layer * (model.num_hidden_layers + depths)
