"""The Mixtral family (arXiv:2401.04088)."""

from firstlight.models.hub_config import Fixed, Mapped
from firstlight.models.hub_fields import AUXILIARY_LOSS, COMMON, EXPERTS_PER_TOKEN, GROUPED_QUERY
from firstlight.models.hub_rope import rope_row
from firstlight.models.hub_window import every_layer, window_row
from firstlight.models.mixtral.names import BLOCK
from firstlight.models.model_family import ModelFamily

MIXTRAL = ModelFamily(
    name="mixtral",
    architecture="MixtralForCausalLM",
    model_types=("mixtral",),
    given={
        "attention.kind": "gqa",
        "feed_forward.kind": "moe",
        "feed_forward.n_shared_experts": 0,
        "feed_forward.router.scoring": "softmax",
    },
    config_rows=(
        *COMMON,
        *GROUPED_QUERY,
        rope_row(layout="half_split", theta=1e6),
        window_row(slides=every_layer, has_switch=False, has_layer_types=False),
        Mapped(theirs="intermediate_size", ours="feed_forward.moe_intermediate_size"),
        Mapped(theirs="num_local_experts", ours="feed_forward.n_routed_experts", also=("num_experts",)),
        EXPERTS_PER_TOKEN,
        Fixed(theirs="router_jitter_noise", value=0.0),
        AUXILIARY_LOSS,
    ),
    block=BLOCK,
)
