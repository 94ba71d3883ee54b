"""The Qwen3 family (arXiv:2505.09388), its dense models."""

from firstlight.models.hub_fields import COMMON, DENSE, GROUPED_QUERY, bias_row
from firstlight.models.hub_rope import rope_row
from firstlight.models.hub_window import from_max_window_layers, window_row
from firstlight.models.model_family import ModelFamily
from firstlight.models.qwen3.names import BLOCK

QWEN3 = ModelFamily(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    model_types=("qwen3",),
    given={"attention.kind": "gqa", "attention.qk_norm": "per_head", "feed_forward.kind": "dense"},
    config_rows=(
        *COMMON,
        *GROUPED_QUERY,
        rope_row(layout="half_split"),
        bias_row(with_bias="all", default=False),
        window_row(slides=from_max_window_layers, has_switch=True, has_layer_types=True),
        *DENSE,
    ),
    block=BLOCK,
)
