"""The Mistral family (arXiv:2310.06825), its dense models."""

from firstlight.models.hub_fields import COMMON, DENSE, GROUPED_QUERY
from firstlight.models.hub_rope import rope_row
from firstlight.models.hub_window import every_layer, window_row
from firstlight.models.mistral.names import BLOCK
from firstlight.models.model_family import ModelFamily

MISTRAL = ModelFamily(
    name="mistral",
    architecture="MistralForCausalLM",
    model_types=("mistral",),
    given={"attention.kind": "gqa", "feed_forward.kind": "dense"},
    config_rows=(
        *COMMON,
        *GROUPED_QUERY,
        rope_row(layout="half_split"),
        window_row(slides=every_layer, has_switch=False, has_layer_types=False),
        *DENSE,
    ),
    block=BLOCK,
)
