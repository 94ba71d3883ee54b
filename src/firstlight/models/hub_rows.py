"""Rows of name tables that several families of the Hugging Face hub share."""

from collections.abc import Iterable

from firstlight.config.model import ModelConfig, MoeFeedForward
from firstlight.models.names import NameTable, Row, block_rows, same

PRE_NORMS = (
    same("attention_norm.weight", "input_layernorm.weight"),
    same("feed_forward_norm.weight", "post_attention_layernorm.weight"),
)

GROUPED_QUERY = (
    *(
        same(f"attention.{part}_proj.{kind}", f"self_attn.{part}_proj.{kind}")
        for part in ("q", "k", "v", "o")
        for kind in ("weight", "bias")
    ),
    same("attention.q_norm.weight", "self_attn.q_norm.weight"),
    same("attention.k_norm.weight", "self_attn.k_norm.weight"),
    same("attention.sinks", "self_attn.sinks"),
)

LATENT = (
    same("attention.q_proj.weight", "self_attn.q_proj.weight"),
    same("attention.q_a_proj.weight", "self_attn.q_a_proj.weight"),
    same("attention.q_a_norm.weight", "self_attn.q_a_layernorm.weight"),
    same("attention.q_b_proj.weight", "self_attn.q_b_proj.weight"),
    same("attention.kv_a_proj.weight", "self_attn.kv_a_proj_with_mqa.weight"),
    same("attention.kv_a_norm.weight", "self_attn.kv_a_layernorm.weight"),
    same("attention.kv_b_proj.weight", "self_attn.kv_b_proj.weight"),
    same("attention.o_proj.weight", "self_attn.o_proj.weight"),
)

DENSE = tuple(same(f"feed_forward.{part}_proj.weight", f"mlp.{part}_proj.weight") for part in ("gate", "up", "down"))

EXPERTS = (
    same("feed_forward.router.weight", "mlp.gate.weight"),
    same("feed_forward.router.bias", "mlp.gate.e_score_correction_bias"),
    *(
        Row(
            ours=(f"feed_forward.experts.{part}_proj",),
            theirs=f"mlp.experts.{{expert}}.{part}_proj.weight",
            layout="per_expert",
        )
        for part in ("gate", "up", "down")
    ),
    *(
        same(f"feed_forward.shared_expert.{part}_proj.weight", f"mlp.shared_experts.{part}_proj.weight")
        for part in ("gate", "up", "down")
    ),
)


def hub_table(model: ModelConfig, block: Iterable[Row]) -> NameTable:
    """The hub's names for a decoder whose layers have the rows `block`.

    Layers of multi-token prediction are numbered after the last layer and repeat embedding and head.
    """
    block = tuple(block)
    theirs = "model.layers.{mtp_layer}."
    rows = (
        same("embedding.weight", "model.embed_tokens.weight"),
        *block_rows(block, "layers.{layer}.", "model.layers.{layer}."),
        same("output_norm.weight", "model.norm.weight"),
        same("head.weight", "lm_head.weight"),
        same("mtp.{depth}.embedding_norm.weight", theirs + "enorm.weight"),
        same("mtp.{depth}.hidden_norm.weight", theirs + "hnorm.weight"),
        same("mtp.{depth}.projection.weight", theirs + "eh_proj.weight"),
        *block_rows(block, "mtp.{depth}.block.", theirs),
        same("mtp.{depth}.output_norm.weight", theirs + "shared_head.norm.weight"),
    )
    head = "embedding.weight" if model.tie_word_embeddings else "head.weight"
    copies = {}
    for layer in range(model.num_hidden_layers, model.num_hidden_layers + model.num_mtp_layers):
        copies[f"model.layers.{layer}.embed_tokens.weight"] = "embedding.weight"
        copies[f"model.layers.{layer}.shared_head.head.weight"] = head
    experts = model.feed_forward.n_routed_experts if isinstance(model.feed_forward, MoeFeedForward) else 0
    return NameTable(rows=rows, num_hidden_layers=model.num_hidden_layers, num_experts=experts, copies=copies)
