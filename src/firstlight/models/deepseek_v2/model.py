"""The DeepSeek-V2 family (arXiv:2405.04434): V2, whose router first chooses groups of experts, and V2-Lite."""

from firstlight.config.model import ModelConfig, MoeFeedForward
from firstlight.config.router import GroupedRouting
from firstlight.models.deepseek_v2.names import BLOCK
from firstlight.models.hub_config import Fixed, Joint, Json, RefusedFieldError
from firstlight.models.hub_fields import COMMON, DEEPSEEK_EXPERTS, LATENT, dense_where_no_layer_is_sparse
from firstlight.models.hub_rope import rope_row
from firstlight.models.model_family import ModelFamily

_GREEDY, _GROUPED = "greedy", "group_limited_greedy"


def _read_groups(values: Json) -> Json:
    method = values.get("topk_method", _GREEDY)
    if method not in (_GREEDY, _GROUPED):
        raise RefusedFieldError(f"topk_method = {method!r} is not supported; {_GREEDY!r} and {_GROUPED!r} are")
    is_grouped = method == _GROUPED
    return {
        "scoring": "softmax",
        "norm_topk_prob": False,
        "n_group": values["n_group"] if is_grouped else 1,
        "topk_group": values["topk_group"] if is_grouped else 1,
    }


def _write_groups(model: ModelConfig) -> Json:
    if not isinstance(model.feed_forward, MoeFeedForward):
        return {}
    router = model.feed_forward.router
    assert isinstance(router, GroupedRouting), "the family has no other router"
    method = _GROUPED if router.n_group > 1 else _GREEDY
    return {"topk_method": method, "n_group": router.n_group, "topk_group": router.topk_group}


DEEPSEEK_V2 = ModelFamily(
    name="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    model_types=("deepseek_v2",),
    given={"attention.kind": "mla", "feed_forward.kind": "moe", "multi_token_prediction": None},
    config_rows=(
        *COMMON,
        *LATENT,
        rope_row(layout="interleaved"),
        Joint(
            fields=("topk_method", "n_group", "topk_group"),
            ours="feed_forward.router",
            to_ours=_read_groups,
            to_theirs=_write_groups,
        ),
        *DEEPSEEK_EXPERTS,
        # transformers does not look at norm_topk_prob here; DeepSeek's own code does.
        Fixed(theirs="norm_topk_prob", value=False),
        Fixed(theirs="scoring_func", value="softmax"),
        Fixed(theirs="mlp_bias", value=False),
    ),
    block=BLOCK,
    settle=dense_where_no_layer_is_sparse,
)
