"""The layouts that are compared with one rank, and the models on which they are."""

from collections.abc import Mapping
from dataclasses import dataclass

from firstlight.config.model import ModelConfig
from firstlight.layout.mesh import Layout
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, of_family

_SINGLE: Mapping[str, ModelConfig] = {
    "llama": llama(initializer_range=0.1),
    "tied": llama(initializer_range=0.1, tie_word_embeddings=True),
    "deepseek": deepseek(
        multi_token_prediction={},
        initializer_range=0.1,
        router={"sequence_balance_loss": 0.5, "bias_update_rate": 0.01},
    ),
    **{family: of_family(family, initializer_range=0.1) for family in OTHER_FAMILIES},
}
PACKED: Mapping[str, str] = {model: f"{model}_packed" for model in ("llama", "deepseek", "gpt_oss")}
"""The names under which models read rows of several documents."""

MODELS: Mapping[str, ModelConfig] = {**_SINGLE, **{packed: _SINGLE[model] for model, packed in PACKED.items()}}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model in a layout."""

    model: str
    layout: Layout
    is_slow: bool = False


_SLOW = ("ep2_replicated", "tp2_dp2", "tp2_dp2_ep2")
"""What others, that run by default, cover in the main."""

_EXPERT: Mapping[str, Layout] = {
    "ep2": Layout(dp_shard=2, ep=2),
    "ep4": Layout(dp_shard=4, ep=4),
    "ep2_edp2": Layout(dp_shard=4, ep=2),
    "ep2_replicated": Layout(dp_replicate=2, dp_shard=2, ep=2),
}

_TENSOR: Mapping[str, Layout] = {
    "tp2": Layout(tp=2),
    "tp2_dp2": Layout(tp=2, dp_shard=2),
    "tp4": Layout(tp=4),
}
_BOTH: Mapping[str, Layout] = {
    "tp2_ep2": Layout(tp=2, ep=2),
    "tp2_dp2_ep2": Layout(tp=2, dp_shard=2, ep=2),
    "tp2_dp2_ep4": Layout(tp=2, dp_shard=2, ep=4),
}
_EIGHT: Mapping[str, Layout] = {
    "tp2_dp4": Layout(tp=2, dp_shard=4),
    "tp4_dp2_ep8": Layout(tp=4, dp_shard=2, ep=8),
    "tp2_dp2_replicated_ep2": Layout(tp=2, dp_shard=2, dp_replicate=2, ep=2),
}
_CONTEXT: Mapping[str, Layout] = {
    "cp2_ring": Layout(cp=2),
    "cp2_all_to_all": Layout(cp=2, cp_heads=2),
    "cp4_ring": Layout(cp=4),
    "cp4_all_to_all": Layout(cp=4, cp_heads=4),
    "cp4_mixed": Layout(cp=4, cp_heads=2),
    "cp2_ring_tp2": Layout(cp=2, tp=2),
    "cp2_all_to_all_tp2": Layout(cp=2, cp_heads=2, tp=2),
    "cp2_ring_dp2": Layout(cp=2, dp_shard=2),
    "cp2_ring_ep2": Layout(cp=2, ep=2),
    "cp2_ring_dp2_ep4": Layout(cp=2, dp_shard=2, ep=4),
    "cp4_mixed_tp2_ep8": Layout(cp=4, cp_heads=2, tp=2, ep=8),
    "cp2_ring_tp2_dp2_ep4": Layout(cp=2, tp=2, dp_shard=2, ep=4),
    "cp2_all_to_all_dp2_replicated": Layout(cp=2, cp_heads=2, dp_shard=2, dp_replicate=2),
}
_CONTEXT_EIGHT = ("deepseek", "gpt_oss_packed")
_CONTEXT_QUICK = (
    "llama_cp2_ring",
    "deepseek_cp2_all_to_all",
    "gpt_oss_packed_cp2_ring",
    "deepseek_cp4_mixed",
    "gpt_oss_cp2_ring_tp2",
)


def _has_experts(family: str) -> bool:
    return MODELS[family].feed_forward.kind == "moe"


CASES: Mapping[str, Case] = {
    **{f"{model}_alone": Case(model=model, layout=Layout()) for model in MODELS},
    **{
        f"deepseek_{name}": Case(model="deepseek", layout=layout, is_slow=name in _SLOW)
        for name, layout in _EXPERT.items()
    },
    **{
        f"deepseek_{name}": Case(model="deepseek", layout=layout, is_slow=name in _SLOW)
        for name, layout in {**_TENSOR, **_BOTH}.items()
    },
    **{f"{model}_tp2": Case(model=model, layout=_TENSOR["tp2"]) for model in ("llama", "tied", "gpt_oss")},
    **{
        f"{family}_tp2": Case(
            model=family, layout=_BOTH["tp2_ep2"] if _has_experts(family) else _TENSOR["tp2"], is_slow=True
        )
        for family in OTHER_FAMILIES
        if family != "gpt_oss"
    },
    "llama_tp2_dp2": Case(model="llama", layout=_TENSOR["tp2_dp2"]),
    **{f"deepseek_{name}": Case(model="deepseek", layout=layout, is_slow=True) for name, layout in _EIGHT.items()},
    "tied_tp2_dp2": Case(model="tied", layout=_TENSOR["tp2_dp2"], is_slow=True),
    "deepseek_tp2_recomputed": Case(model="deepseek", layout=_TENSOR["tp2"], is_slow=True),
    "deepseek_ep2_recomputed": Case(model="deepseek", layout=_EXPERT["ep2"], is_slow=True),
    **{
        f"{model}_{name}": Case(model=model, layout=layout, is_slow=f"{model}_{name}" not in _CONTEXT_QUICK)
        for model in ("llama", "deepseek", "gpt_oss", *PACKED.values())
        for name, layout in _CONTEXT.items()
        if (layout.ep == 1 or _has_experts(model)) and (layout.world_size < 8 or model in _CONTEXT_EIGHT)
    },
    **{
        f"{family}_cp4_mixed": Case(model=family, layout=_CONTEXT["cp4_mixed"], is_slow=True)
        for family in OTHER_FAMILIES
        if family != "gpt_oss"
    },
    "deepseek_cp2_ring_recomputed": Case(model="deepseek", layout=_CONTEXT["cp2_ring"], is_slow=True),
    "deepseek_cp2_all_to_all_recomputed": Case(model="deepseek", layout=_CONTEXT["cp2_all_to_all"], is_slow=True),
    "gpt_oss_ep2": Case(model="gpt_oss", layout=_EXPERT["ep2"]),
}
