"""The Llama family (arXiv:2407.21783)."""

from firstlight.models.hub_config import Fixed
from firstlight.models.hub_fields import COMMON, DENSE, GROUPED_QUERY, bias_row
from firstlight.models.hub_rope import rope_row
from firstlight.models.llama.names import BLOCK
from firstlight.models.model_family import ModelFamily

LLAMA = ModelFamily(
    name="llama",
    architecture="LlamaForCausalLM",
    model_types=("llama",),
    given={"attention.kind": "gqa", "feed_forward.kind": "dense"},
    config_rows=(
        *COMMON,
        *GROUPED_QUERY,
        rope_row(layout="half_split"),
        bias_row(with_bias="all", default=False),
        *DENSE,
        Fixed(theirs="mlp_bias", value=False),
    ),
    block=BLOCK,
)
