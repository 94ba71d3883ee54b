"""Parameters and FLOPs from the model section alone."""

from dataclasses import dataclass
from typing import Literal

from firstlight.config.model import (
    GroupedQueryAttention,
    ModelConfig,
    MoeFeedForward,
    MultiHeadLatentAttention,
)
from firstlight.config.router import TopKSoftmaxRouter

_FLOPS_PER_PARAMETER = 6
"""A multiply and an add forward, and twice that backward."""


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Trainable parameters: all of them, and those that one token passes through (embedding look-up left out).

    Both include the multi-token prediction layers.
    """

    total: int
    activated: int


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Parameters of a part of the model: of matrices, which a token is multiplied with, and of the rest: norms, biases,
    sinks. `activated` are those that one token passes through."""

    matrices: int
    vectors: int = 0
    activated_matrices: int
    activated_vectors: int = 0

    def __add__(self, other: "_Part") -> "_Part":
        return _Part(
            matrices=self.matrices + other.matrices,
            vectors=self.vectors + other.vectors,
            activated_matrices=self.activated_matrices + other.activated_matrices,
            activated_vectors=self.activated_vectors + other.activated_vectors,
        )


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Exact counts; a test holds them against the built module."""
    whole = _whole(model)
    return ParameterCounts(
        total=whole.matrices + whole.vectors, activated=whole.activated_matrices + whole.activated_vectors
    )


Convention = Literal["causal", "full"]
"""How attention is counted: for the positions that a query sees, half of them, or for all, as some publications do."""


def flops_per_token(model: ModelConfig, sequence_length: int, convention: Convention = "causal") -> float:
    """Floating-point operations of forward and backward for one token, without recomputation.

    Convention: 6 per activated matrix parameter, attention counted for the positions that a query sees (the causal
    half, or all; fewer where a window slides), embedding look-up not counted, output head (again for each MTP depth)
    counted.
    """
    attention = model.attention
    seen = sum(seen_positions(model, layer, sequence_length, convention) for layer in _layers(model))
    scores = seen * attention.num_attention_heads * attention.score_widths
    return _FLOPS_PER_PARAMETER * (_whole(model).activated_matrices + scores)


@dataclass(frozen=True, kw_only=True)
class FlopsByPart:
    """FLOPs of one token, by the conventions of `flops_per_token`: of each decoder layer, and of what follows them."""

    layers: list[float]
    head: float
    """The head, and the layers of multi-token prediction with theirs."""


def flops_by_part(model: ModelConfig, sequence_length: int) -> FlopsByPart:
    """What each layer costs, to deal layers out to stages."""
    costs = [_flops_of_layer(model, layer, sequence_length) for layer in _layers(model)]
    layers, ahead = costs[: model.num_hidden_layers], costs[model.num_hidden_layers :]
    head = model.vocab_size * model.hidden_size * (1 + model.num_mtp_layers)
    projections = model.num_mtp_layers * 2 * model.hidden_size**2
    return FlopsByPart(layers=layers, head=sum(ahead) + _FLOPS_PER_PARAMETER * (head + projections))


def _flops_of_layer(model: ModelConfig, layer: int, sequence_length: int) -> float:
    part = _attention(model) + _feed_forward(model, layer)
    attention = model.attention
    scores = seen_positions(model, layer, sequence_length) * attention.num_attention_heads * attention.score_widths
    return _FLOPS_PER_PARAMETER * (part.activated_matrices + scores)


def seen_positions(model: ModelConfig, layer: int, sequence_length: int, convention: Convention = "causal") -> float:
    """How many positions a query of a layer sees, averaged over the sequence (half of it where there is no window)."""
    window = min(model.attention.window_of(layer) or sequence_length, sequence_length)
    return window if convention == "full" else window - window**2 / (2 * sequence_length)


def _layers(model: ModelConfig) -> range:
    """The decoder's layers, and those of multi-token prediction after them."""
    return range(model.num_hidden_layers + model.num_mtp_layers)


def _whole(model: ModelConfig) -> _Part:
    depths = model.num_mtp_layers
    embedding = model.vocab_size * model.hidden_size
    outside = _Part(
        matrices=embedding if model.tie_word_embeddings else 2 * embedding,
        # Each MTP depth applies the head once more; the embedding is looked up, not multiplied.
        activated_matrices=embedding * (1 + depths),
    )
    projections = _always(matrices=depths * 2 * model.hidden_size**2, vectors=model.hidden_size * (1 + 3 * depths))
    parts = [_norms(model) + _attention(model) + _feed_forward(model, layer) for layer in _layers(model)]
    return sum(parts, start=outside + projections)


def _always(*, matrices: int, vectors: int = 0) -> _Part:
    """A part that every token passes through."""
    return _Part(matrices=matrices, vectors=vectors, activated_matrices=matrices, activated_vectors=vectors)


def _norms(model: ModelConfig) -> _Part:
    """The norms of a layer."""
    return _always(matrices=0, vectors=model.hidden_size * (4 if model.norms == "sandwich" else 2))


def _attention(model: ModelConfig) -> _Part:
    match model.attention:
        case GroupedQueryAttention() as gqa:
            return _grouped_query(model.hidden_size, gqa)
        case MultiHeadLatentAttention() as mla:
            return _latent(model.hidden_size, mla)


def _grouped_query(hidden: int, gqa: GroupedQueryAttention) -> _Part:
    query, key = gqa.head_dim * gqa.num_attention_heads, gqa.head_dim * gqa.num_key_value_heads
    biases = {"none": 0, "qkv": query + 2 * key, "all": query + 2 * key + hidden}[gqa.bias]
    norms = 2 * gqa.head_dim if gqa.qk_norm == "per_head" else 0
    sinks = gqa.num_attention_heads if gqa.has_sinks else 0
    return _always(matrices=hidden * 2 * (query + key), vectors=biases + norms + sinks)


def _latent(hidden: int, mla: MultiHeadLatentAttention) -> _Part:
    heads = mla.num_attention_heads
    query_width = heads * mla.qk_head_dim
    query = hidden * query_width
    if mla.q_lora_rank is not None:
        query = hidden * mla.q_lora_rank + mla.q_lora_rank * query_width
    key_value = hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim)
    key_value += mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    matrices = query + key_value + heads * mla.v_head_dim * hidden
    return _always(matrices=matrices, vectors=mla.kv_lora_rank + (mla.q_lora_rank or 0))


def _feed_forward(model: ModelConfig, layer: int) -> _Part:
    feed_forward, hidden = model.feed_forward, model.hidden_size
    if not (isinstance(feed_forward, MoeFeedForward) and model.is_moe_layer(layer)):
        return _always(matrices=3 * hidden * (feed_forward.intermediate_size or 0))
    width, experts = feed_forward.moe_intermediate_size, feed_forward.n_routed_experts
    chosen = feed_forward.router.num_experts_per_tok
    expert, bias = 3 * hidden * width, (2 * width + hidden) * feed_forward.has_expert_bias
    routed = _Part(
        matrices=experts * expert,
        vectors=experts * bias,
        activated_matrices=chosen * expert,
        activated_vectors=chosen * bias,
    )
    router = feed_forward.router
    logit_bias = experts if isinstance(router, TopKSoftmaxRouter) and router.has_logit_bias else 0
    beside = hidden * experts + feed_forward.n_shared_experts * expert
    return routed + _always(matrices=beside, vectors=logit_bias)
