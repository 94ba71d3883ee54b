"""The GLM-4.5 family (arXiv:2508.06471), GLM-4.6 included."""

from firstlight.models.glm4_moe.names import BLOCK
from firstlight.models.hub_config import Mapped
from firstlight.models.hub_fields import COMMON, DEEPSEEK_EXPERTS, GROUPED_QUERY, MTP, SIGMOID_ROUTER, bias_row
from firstlight.models.hub_rope import rope_row
from firstlight.models.model_family import ModelFamily

GLM4_MOE = ModelFamily(
    name="glm4_moe",
    architecture="Glm4MoeForCausalLM",
    model_types=("glm4_moe",),
    given={"attention.kind": "gqa", "feed_forward.kind": "moe", "feed_forward.router.scoring": "sigmoid"},
    config_rows=(
        *COMMON,
        *GROUPED_QUERY,
        rope_row(layout="half_split", partial=0.5),
        bias_row(with_bias="qkv", default=False),
        Mapped(
            theirs="use_qk_norm",
            ours="attention.qk_norm",
            default=False,
            to_ours=lambda is_normalised: "per_head" if is_normalised else "none",
            to_theirs=lambda qk_norm: qk_norm != "none",
        ),
        *DEEPSEEK_EXPERTS,
        *SIGMOID_ROUTER,
        MTP,
    ),
    block=BLOCK,
)
