"""The Qwen2 family (arXiv:2407.10671), Qwen2.5 included."""

from firstlight.models.hub_fields import COMMON, DENSE, GROUPED_QUERY
from firstlight.models.hub_rope import rope_row
from firstlight.models.hub_window import from_max_window_layers, window_row
from firstlight.models.model_family import ModelFamily
from firstlight.models.qwen2.names import BLOCK

QWEN2 = ModelFamily(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    model_types=("qwen2",),
    given={"attention.kind": "gqa", "attention.bias": "qkv", "feed_forward.kind": "dense"},
    config_rows=(
        *COMMON,
        *GROUPED_QUERY,
        rope_row(layout="half_split"),
        window_row(slides=from_max_window_layers, has_switch=True, has_layer_types=True),
        *DENSE,
    ),
    block=BLOCK,
)
