"""Rows of config.json that several families share."""

from typing import Any

from firstlight.config.model import ModelConfig, MultiTokenPrediction
from firstlight.models.hub_config import LEFT, Fixed, Ignored, Joint, Json, Mapped

COMMON = (
    Mapped(theirs="vocab_size", ours="vocab_size"),
    Mapped(theirs="hidden_size", ours="hidden_size"),
    Mapped(theirs="num_hidden_layers", ours="num_hidden_layers"),
    Mapped(theirs="max_position_embeddings", ours="max_position_embeddings"),
    Mapped(theirs="rms_norm_eps", ours="rms_norm_eps"),
    Mapped(theirs="tie_word_embeddings", ours="tie_word_embeddings", default=False),
    Mapped(theirs="initializer_range", ours="initializer_range", default=0.02),
    Fixed(theirs="hidden_act", value="silu"),
    Fixed(theirs="attention_dropout", value=0.0),
    Ignored(fields=("architectures", "model_type", "auto_map"), because="they chose the family"),
    Ignored(fields=("torch_dtype", "dtype", "quantization_config"), because="they say how the weights are stored"),
    Ignored(fields=("bos_token_id", "eos_token_id", "pad_token_id"), because="they are the tokenizer's"),
    Ignored(fields=("use_cache", "output_router_logits"), because="they are about generating"),
    Ignored(fields=("transformers_version", "_name_or_path", "pretraining_tp"), because="they say who wrote the file"),
)

ATTENTION_HEADS = Mapped(theirs="num_attention_heads", ours="attention.num_attention_heads")

GROUPED_QUERY = (
    ATTENTION_HEADS,
    Mapped(theirs="num_key_value_heads", ours="attention.num_key_value_heads", default=LEFT),
    Mapped(theirs="head_dim", ours="attention.head_dim", default=LEFT),
)

DENSE = (Mapped(theirs="intermediate_size", ours="feed_forward.intermediate_size"),)

# Left to our section, which asks for them where a layer has experts.
EXPERTS_PER_TOKEN = Mapped(theirs="num_experts_per_tok", ours="feed_forward.router.num_experts_per_tok", default=LEFT)

AUXILIARY_LOSS = Ignored(
    fields=("router_aux_loss_coef", "aux_loss_alpha", "seq_aux"),
    because="the balance loss is a choice of training: feed_forward.router has its own",
)


def bias_row(*, with_bias: str, default: bool) -> Mapped:
    """`attention_bias`, which is `with_bias` in our words where it is true."""
    return Mapped(
        theirs="attention_bias",
        ours="attention.bias",
        default=default,
        to_ours=lambda has_bias: with_bias if has_bias else "none",
        to_theirs=lambda bias: bias != "none",
    )


def one_where_null(value: int | None) -> int:
    """A number of groups, which null leaves at one."""
    return value or 1


def mtp_from_count(count: int | None) -> dict[str, int] | None:
    """The section of so many prediction layers."""
    return {"num_layers": count} if count else None


def count_of_mtp(section: MultiTokenPrediction | None) -> int:
    """How many prediction layers a section has."""
    return section.num_layers if section else 0


MTP = Mapped(
    theirs="num_nextn_predict_layers",
    ours="multi_token_prediction",
    default=0,
    also=("num_mtp_layers",),
    to_ours=mtp_from_count,
    to_theirs=count_of_mtp,
)


def _dense_width(model: ModelConfig) -> Json:
    feed_forward: Any = model.feed_forward
    # The class wants a width also where no layer is dense.
    return {"intermediate_size": feed_forward.intermediate_size or feed_forward.moe_intermediate_size}


SPARSE = (
    Joint(
        fields=("intermediate_size",),
        ours="feed_forward.intermediate_size",
        to_ours=lambda values: values.get("intermediate_size"),
        to_theirs=_dense_width,
    ),
    Mapped(theirs="moe_intermediate_size", ours="feed_forward.moe_intermediate_size", default=LEFT),
    EXPERTS_PER_TOKEN,
)
"""A mixture of experts beside dense layers."""

DEEPSEEK_EXPERTS = (
    *SPARSE,
    Joint(
        fields=("first_k_dense_replace",),
        ours="feed_forward.first_k_dense_replace",
        to_ours=lambda values: values.get("first_k_dense_replace", 0),
        # The class knows no dense model: every layer is one of the leading dense ones.
        to_theirs=lambda model: {
            "first_k_dense_replace": getattr(model.feed_forward, "first_k_dense_replace", model.num_hidden_layers)
        },
    ),
    Mapped(theirs="n_routed_experts", ours="feed_forward.n_routed_experts", default=LEFT, also=("num_local_experts",)),
    Mapped(theirs="n_shared_experts", ours="feed_forward.n_shared_experts", default=0, to_ours=lambda n: n or 0),
    Mapped(theirs="routed_scaling_factor", ours="feed_forward.router.routed_scaling_factor", default=1.0),
    Fixed(theirs="moe_layer_freq", value=1),
    Ignored(fields=("ep_size",), because="it is about how the model is spread over devices"),
    AUXILIARY_LOSS,
)

SIGMOID_ROUTER = (
    Mapped(theirs="n_group", ours="feed_forward.router.n_group", default=1, to_ours=one_where_null),
    Mapped(theirs="topk_group", ours="feed_forward.router.topk_group", default=1, to_ours=one_where_null),
    Mapped(theirs="norm_topk_prob", ours="feed_forward.router.norm_topk_prob", default=True),
    Fixed(theirs="scoring_func", value="sigmoid"),
    Fixed(theirs="topk_method", value="noaux_tc"),
)

LATENT = (
    ATTENTION_HEADS,
    Mapped(theirs="q_lora_rank", ours="attention.q_lora_rank", default=None, to_ours=lambda rank: rank or None),
    Mapped(theirs="kv_lora_rank", ours="attention.kv_lora_rank"),
    Mapped(theirs="qk_nope_head_dim", ours="attention.qk_nope_head_dim"),
    Mapped(theirs="qk_rope_head_dim", ours="attention.qk_rope_head_dim"),
    Mapped(theirs="v_head_dim", ours="attention.v_head_dim"),
    Joint(
        fields=("num_key_value_heads",),
        ours="attention.kind",
        to_ours=lambda _values: "mla",
        to_theirs=lambda model: {"num_key_value_heads": model.attention.num_attention_heads},
    ),
    Fixed(theirs="attention_bias", value=False),
    Ignored(fields=("head_dim", "qk_head_dim"), because="it follows from the widths of a head's parts"),
)


def dense_where_no_layer_is_sparse(values: dict[str, Any]) -> dict[str, Any]:
    """A model section whose layers are all dense says so outright."""
    feed_forward = values["feed_forward"]
    all_dense = feed_forward["first_k_dense_replace"] >= values["num_hidden_layers"]
    if all_dense and values["multi_token_prediction"] is None:
        dense = {"kind": "dense", "intermediate_size": feed_forward["intermediate_size"]}
        return {**values, "feed_forward": dense}
    return values
