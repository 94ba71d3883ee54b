"""Hugging Face's tensor names for Mixtral."""

from firstlight.models.hub_rows import GROUPED_QUERY, PRE_NORMS
from firstlight.models.names import Row, same

_EXPERT_PARTS = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}

BLOCK = (
    *PRE_NORMS,
    *GROUPED_QUERY,
    same("feed_forward.router.weight", "block_sparse_moe.gate.weight"),
    *(
        Row(
            ours=(f"feed_forward.experts.{ours}",),
            theirs=f"block_sparse_moe.experts.{{expert}}.{theirs}.weight",
            layout="per_expert",
        )
        for ours, theirs in _EXPERT_PARTS.items()
    ),
)
