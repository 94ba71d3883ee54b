"""Hugging Face's tensor names for GLM-4-0414."""

from firstlight.models.hub_rows import GROUPED_QUERY, PRE_NORMS
from firstlight.models.names import Row, same

BLOCK = (
    *PRE_NORMS,
    same("attention_output_norm.weight", "post_self_attn_layernorm.weight"),
    same("feed_forward_output_norm.weight", "post_mlp_layernorm.weight"),
    *GROUPED_QUERY,
    Row(
        ours=("feed_forward.gate_proj.weight", "feed_forward.up_proj.weight"),
        theirs="mlp.gate_up_proj.weight",
        layout="joined",
    ),
    same("feed_forward.down_proj.weight", "mlp.down_proj.weight"),
)
