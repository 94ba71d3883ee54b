"""The Qwen3-MoE family (arXiv:2505.09388)."""

from firstlight.config.model import ModelConfig
from firstlight.models.hub_config import Fixed, Joint, Json, Mapped, RefusedFieldError
from firstlight.models.hub_fields import AUXILIARY_LOSS, COMMON, GROUPED_QUERY, SPARSE, bias_row
from firstlight.models.hub_rope import rope_row
from firstlight.models.hub_window import every_layer, window_row
from firstlight.models.model_family import ModelFamily
from firstlight.models.qwen3_moe.names import BLOCK


def _leading(values: Json) -> int:
    """How many dense layers lead; dense layers elsewhere are refused."""
    dense = list(values.get("mlp_only_layers") or [])
    if sorted(dense) != list(range(len(dense))):
        raise RefusedFieldError(f"mlp_only_layers = {dense} is not supported; only leading layers can be dense")
    return len(dense)


def _dense_layers(model: ModelConfig) -> Json:
    return {"mlp_only_layers": [layer for layer in range(model.num_hidden_layers) if not model.is_moe_layer(layer)]}


QWEN3_MOE = ModelFamily(
    name="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    model_types=("qwen3_moe",),
    given={
        "attention.kind": "gqa",
        "attention.qk_norm": "per_head",
        "feed_forward.kind": "moe",
        "feed_forward.n_shared_experts": 0,
        "feed_forward.router.scoring": "softmax",
    },
    config_rows=(
        *COMMON,
        *GROUPED_QUERY,
        rope_row(layout="half_split"),
        bias_row(with_bias="all", default=False),
        window_row(slides=every_layer, has_switch=True, has_layer_types=False),
        *SPARSE,
        Mapped(theirs="num_experts", ours="feed_forward.n_routed_experts", also=("num_local_experts",)),
        Mapped(theirs="norm_topk_prob", ours="feed_forward.router.norm_topk_prob", default=False),
        Joint(
            fields=("mlp_only_layers",),
            ours="feed_forward.first_k_dense_replace",
            to_ours=_leading,
            to_theirs=_dense_layers,
        ),
        Fixed(theirs="decoder_sparse_step", value=1),
        AUXILIARY_LOSS,
    ),
    block=BLOCK,
)
