"""The gpt-oss family (arXiv:2508.10925)."""

from firstlight.models.gpt_oss.names import BLOCK
from firstlight.models.hub_config import Ignored, Mapped
from firstlight.models.hub_fields import AUXILIARY_LOSS, COMMON, EXPERTS_PER_TOKEN, GROUPED_QUERY, bias_row
from firstlight.models.hub_rope import rope_row
from firstlight.models.hub_window import every_other_layer, window_row
from firstlight.models.model_family import ModelFamily

GPT_OSS = ModelFamily(
    name="gpt_oss",
    architecture="GptOssForCausalLM",
    model_types=("gpt_oss",),
    given={
        "attention.kind": "gqa",
        "attention.has_sinks": True,
        "feed_forward.kind": "moe",
        "feed_forward.n_shared_experts": 0,
        "feed_forward.has_expert_bias": True,
        "feed_forward.activation.kind": "clamped_swiglu",
        "feed_forward.router.scoring": "topk_softmax",
    },
    config_rows=(
        *COMMON,
        *GROUPED_QUERY,
        rope_row(layout="half_split", theta=150000.0),
        bias_row(with_bias="all", default=True),
        # The class wants a size also where no layer slides.
        window_row(slides=every_other_layer, has_switch=False, has_layer_types=True, unused_size=128),
        Mapped(theirs="intermediate_size", ours="feed_forward.moe_intermediate_size"),
        Mapped(theirs="num_local_experts", ours="feed_forward.n_routed_experts", also=("num_experts",)),
        Mapped(theirs="swiglu_alpha", ours="feed_forward.activation.alpha", default=1.702),
        Mapped(theirs="swiglu_limit", ours="feed_forward.activation.limit", default=7.0),
        EXPERTS_PER_TOKEN,
        Ignored(fields=("experts_per_token",), because="it repeats num_experts_per_tok"),
        Ignored(fields=("initial_context_length",), because="rope_parameters have it"),
        AUXILIARY_LOSS,
    ),
    block=BLOCK,
)
