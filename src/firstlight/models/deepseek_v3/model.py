"""The DeepSeek-V3 family (arXiv:2412.19437): V3, R1, and Kimi-K2, which is a configuration of it."""

from firstlight.config.model import ModelConfig
from firstlight.models.deepseek_v3.names import BLOCK
from firstlight.models.hub_config import Joint, Json
from firstlight.models.hub_fields import (
    COMMON,
    DEEPSEEK_EXPERTS,
    LATENT,
    MTP,
    SIGMOID_ROUTER,
    dense_where_no_layer_is_sparse,
)
from firstlight.models.hub_rope import ROPE_FIELDS, read_rope, write_rope
from firstlight.models.model_family import ModelFamily


def _read_rope(values: Json) -> Json:
    layout = "interleaved" if values.get("rope_interleave", True) else "half_split"
    return {**read_rope(values), "layout": layout}


def _write_rope(model: ModelConfig) -> Json:
    return {**write_rope(model), "rope_interleave": model.attention.rope.layout == "interleaved"}


DEEPSEEK_V3 = ModelFamily(
    name="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    model_types=("deepseek_v3", "kimi_k2"),
    given={"attention.kind": "mla", "feed_forward.kind": "moe", "feed_forward.router.scoring": "sigmoid"},
    config_rows=(
        *COMMON,
        *LATENT,
        Joint(
            fields=(*ROPE_FIELDS, "rope_interleave"), ours="attention.rope", to_ours=_read_rope, to_theirs=_write_rope
        ),
        *DEEPSEEK_EXPERTS,
        *SIGMOID_ROUTER,
        MTP,
    ),
    block=BLOCK,
    settle=dense_where_no_layer_is_sparse,
)
