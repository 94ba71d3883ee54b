"""The GLM-4-0414 family (arXiv:2406.12793, with the norms of the release of April 2025)."""

from firstlight.models.glm4.names import BLOCK
from firstlight.models.hub_fields import COMMON, DENSE, GROUPED_QUERY, bias_row
from firstlight.models.hub_rope import rope_row
from firstlight.models.model_family import ModelFamily

GLM4 = ModelFamily(
    name="glm4",
    architecture="Glm4ForCausalLM",
    model_types=("glm4",),
    given={"norms": "sandwich", "attention.kind": "gqa", "feed_forward.kind": "dense"},
    config_rows=(
        *COMMON,
        *GROUPED_QUERY,
        rope_row(layout="interleaved", partial=0.5),
        bias_row(with_bias="qkv", default=False),
        *DENSE,
    ),
    block=BLOCK,
)
