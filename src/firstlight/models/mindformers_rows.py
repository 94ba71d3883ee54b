"""The names that MindFormers (MindSpore Transformers, since its core graph models) gives to a decoder's tensors.

They follow Megatron's, with layouts of their own: gate and up projections of dense layers and shared experts take turns
row by row, those of routed experts stand side by side, stacked over the experts. Sources: MindFormers 1.9 and 2.1, and
a run of 1.9 whose losses these layouts give to six digits.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from firstlight.base.errors import InputError
from firstlight.config.model import GroupedQueryAttention, ModelConfig, MoeFeedForward, SwigluActivation
from firstlight.models.names import NameTable, Row, TensorLayout, block_rows, same


@dataclass(frozen=True, kw_only=True)
class MindFormersLayout:
    """What differs between checkpoints of one model; the defaults are MindFormers' own."""

    has_joined_latents: bool = False
    """Query and key/value down-projections in one tensor (`mla_qkv_concat`)."""
    has_stacked_experts: bool = False
    """Routed experts' weights with a dimension for the experts (2.0), not flattened into the first one (1.x)."""
    is_interleaved: bool = True
    """Gate and up rows in turn (`use_interleaved_weight_layout_mlp`), not one after the other."""
    is_grouped: bool = True
    """Query, key and value heads in turn (not `use_contiguous_weight_layout_attention`), not one after the other."""


def mindformers_table(model: ModelConfig, layout: MindFormersLayout) -> NameTable:
    """MindFormers' names for the tensors of `model`. Raises InputError for models that it does not name."""
    _require_known(model)
    block = tuple(_block(model, layout))
    theirs = "mtp.layers.{depth}."
    rows = (
        same("embedding.weight", "embedding.word_embeddings.weight"),
        *block_rows(block, "layers.{layer}.", "decoder.layers.{layer}."),
        same("output_norm.weight", "decoder.final_layernorm.weight"),
        same("head.weight", "output_layer.weight"),
        same("mtp.{depth}.embedding_norm.weight", theirs + "enorm.weight"),
        same("mtp.{depth}.hidden_norm.weight", theirs + "hnorm.weight"),
        same("mtp.{depth}.projection.weight", theirs + "eh_proj.weight"),
        *block_rows(block, "mtp.{depth}.block.", theirs + "transformer_layer."),
        same("mtp.{depth}.output_norm.weight", theirs + "final_layernorm.weight"),
    )
    copies = {"output_layer.weight": "embedding.weight"} if model.tie_word_embeddings else {}
    return NameTable(rows=rows, num_hidden_layers=model.num_hidden_layers, copies=copies)


def _require_known(model: ModelConfig) -> None:
    feed_forward, attention = model.feed_forward, model.attention
    refused = {
        "norms = sandwich": model.norms == "sandwich",
        "feed_forward.has_expert_bias": isinstance(feed_forward, MoeFeedForward) and feed_forward.has_expert_bias,
        "feed_forward.activation": isinstance(feed_forward, MoeFeedForward)
        and not isinstance(feed_forward.activation, SwigluActivation),
        "attention.has_sinks": isinstance(attention, GroupedQueryAttention) and attention.has_sinks,
    }
    found = [name for name, is_there in refused.items() if is_there]
    if found:
        raise InputError(f"MindFormers' names for a {model.family} model with {', '.join(found)} are not known")


def _block(model: ModelConfig, layout: MindFormersLayout) -> Iterator[Row]:
    gate_up: TensorLayout = "interleaved_rows" if layout.is_interleaved else "joined"
    yield same("attention_norm.weight", "input_layernorm.weight")
    yield same("feed_forward_norm.weight", "pre_mlp_layernorm.weight")
    yield same("attention.o_proj.weight", "self_attention.linear_proj.weight")
    yield same("attention.o_proj.bias", "self_attention.linear_proj.bias")
    if isinstance(model.attention, GroupedQueryAttention):
        yield from _grouped_query(model.attention, layout)
    else:
        first = "q_proj" if model.attention.q_lora_rank is None else "q_a_proj"
        yield from _joined_latents(first) if layout.has_joined_latents else _latents()
    yield from _swiglu("feed_forward.", "mlp.", gate_up)
    yield from _swiglu("feed_forward.shared_expert.", "mlp.shared_experts.", gate_up)
    yield same("feed_forward.router.weight", "mlp.router.weight")
    yield same("feed_forward.router.bias", "mlp.router.expert_bias")
    experts = "feed_forward.experts."
    yield Row(
        ours=(f"{experts}gate_proj", f"{experts}up_proj"),
        theirs="mlp.experts.weight1",
        layout="transposed_joined" if layout.has_stacked_experts else "flat_transposed_joined",
    )
    yield Row(
        ours=(f"{experts}down_proj",),
        theirs="mlp.experts.weight2",
        layout="transposed" if layout.has_stacked_experts else "flat_transposed",
    )


def _swiglu(ours: str, theirs: str, gate_up: TensorLayout) -> Iterator[Row]:
    gate, up = f"{ours}gate_proj.weight", f"{ours}up_proj.weight"
    yield Row(ours=(gate, up), theirs=f"{theirs}linear_fc1.weight", layout=gate_up)
    yield same(f"{ours}down_proj.weight", f"{theirs}linear_fc2.weight")


def _grouped_query(attention: GroupedQueryAttention, layout: MindFormersLayout) -> Iterator[Row]:
    for kind in ("weight", "bias"):
        yield Row(
            ours=tuple(f"attention.{part}_proj.{kind}" for part in ("q", "k", "v")),
            theirs=f"self_attention.linear_qkv.{kind}",
            layout="grouped" if layout.is_grouped else "joined",
            groups=attention.num_key_value_heads,
        )
    yield same("attention.q_norm.weight", "self_attention.q_layernorm.weight")
    yield same("attention.k_norm.weight", "self_attention.k_layernorm.weight")


def _latents() -> Iterable[Row]:
    names = {
        "q_proj": "linear_q_proj",
        "q_a_proj": "linear_q_down_proj",
        "q_a_norm": "q_layernorm",
        "q_b_proj": "linear_q_up_proj",
        "kv_a_proj": "linear_kv_down_proj",
        "kv_a_norm": "kv_layernorm",
        "kv_b_proj": "linear_kv_up_proj",
    }
    return [same(f"attention.{ours}.weight", f"self_attention.{theirs}.weight") for ours, theirs in names.items()]


def _joined_latents(first: str) -> Iterator[Row]:
    yield Row(
        ours=(f"attention.{first}.weight", "attention.kv_a_proj.weight"),
        theirs="self_attention.linear_qkv.weight",
        layout="joined",
    )
    yield same("attention.q_a_norm.weight", "self_attention.q_layernorm.weight")
    yield same("attention.q_b_proj.weight", "self_attention.linear_qb.weight")
    yield same("attention.kv_a_norm.weight", "self_attention.k_layernorm.weight")
    yield same("attention.kv_b_proj.weight", "self_attention.linear_kvb.weight")
