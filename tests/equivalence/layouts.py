"""The layouts that are compared with one rank, and the models on which they are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from firstlight.config.model import ModelConfig
from firstlight.config.recompute import (
    FullRecompute,
    LayerRange,
    ModuleRecompute,
    NoRecompute,
    OffloadConfig,
    Recompute,
    SelectiveRecompute,
)
from firstlight.config.training import Sharded
from firstlight.layout.mesh import Layout
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, of_family

MODELS: Mapping[str, ModelConfig] = {
    "llama": llama(initializer_range=0.1),
    "tied": llama(initializer_range=0.1, tie_word_embeddings=True),
    "deepseek": deepseek(
        multi_token_prediction={},
        initializer_range=0.1,
        router={"sequence_balance_loss": 0.5, "bias_update_rate": 0.01},
    ),
    "six_experts": deepseek(
        initializer_range=0.1,
        feed_forward={"n_routed_experts": 6},
        router={"n_group": 1, "topk_group": 1, "sequence_balance_loss": 0.5, "bias_update_rate": 0.01},
    ),
    **{family: of_family(family, initializer_range=0.1) for family in OTHER_FAMILIES},
}
STAGES: tuple[Sharded, ...] = get_args(Sharded)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model in a layout."""

    model: str
    layout: Layout
    is_slow: bool = False
    recompute: Recompute = NoRecompute()
    offload: OffloadConfig = OffloadConfig()


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


_REPLICATED = Layout(dp_replicate=2, dp_shard=2)
_KINDS: Mapping[str, Recompute] = {
    "full": FullRecompute(),
    "full_kept": FullRecompute(communication="kept"),
    "some_layers": FullRecompute(layers=LayerRange(first=1, last=2)),
    "modules": ModuleRecompute(modules=("attention", "experts", "shared_expert")),
    "modules_kept": ModuleRecompute(modules=("attention", "feed_forward"), communication="kept"),
    "selective": SelectiveRecompute(repeated_in=("latent_up_projection",)),
    "selective_repeated": SelectiveRecompute(kept=("products", "attention")),
    "selective_every_second": SelectiveRecompute(kept=("attention",), layers=LayerRange(every=2)),
}
_QUICK_KINDS = ("full_kept", "modules", "selective")

_RECOMPUTED: Mapping[str, Case] = {
    f"deepseek_{name}_{kind}": Case(
        model="deepseek",
        layout=layout,
        recompute=recompute,
        is_slow=name != "tp2_ep2" or kind not in _QUICK_KINDS,
    )
    for name, layout in {"ep2": _EXPERT["ep2"], "tp2_ep2": _BOTH["tp2_ep2"], "ep2_edp2": _EXPERT["ep2_edp2"]}.items()
    for kind, recompute in _KINDS.items()
}
_TO_HOST = OffloadConfig(activations=LayerRange(), optimizer_state="host")
_OFFLOADED: Mapping[str, Case] = {
    "deepseek_dp2_offloaded": Case(model="deepseek", layout=Layout(dp_shard=2), offload=_TO_HOST, is_slow=True),
    "deepseek_tp2_ep2_offloaded": Case(
        model="deepseek", layout=_BOTH["tp2_ep2"], offload=_TO_HOST, recompute=SelectiveRecompute()
    ),
    "deepseek_ep2_edp2_offloaded": Case(
        model="deepseek", layout=_EXPERT["ep2_edp2"], offload=_TO_HOST, recompute=FullRecompute(), is_slow=True
    ),
}
"""On CPU, copies to host memory are copies all the same."""
_SHARDED: Mapping[str, Case] = {
    **{
        f"deepseek_dp2_{sharded}": Case(model="deepseek", layout=Layout(dp_shard=2, sharded=sharded))
        for sharded in STAGES
    },
    **{
        f"deepseek_{name}_{sharded}": Case(model="deepseek", layout=replace(layout, sharded=sharded), is_slow=True)
        for name, layout in {"replicated": _REPLICATED, "ep2_edp2": _EXPERT["ep2_edp2"], **_BOTH}.items()
        for sharded in STAGES
    },
    "six_experts_ep2_edp2": Case(model="six_experts", layout=_EXPERT["ep2_edp2"]),
    "six_experts_dp4": Case(model="six_experts", layout=Layout(dp_shard=4), is_slow=True),
    "tied_dp2_optimizer": Case(model="tied", layout=Layout(dp_shard=2, sharded="optimizer"), is_slow=True),
    "deepseek_dp2_optimizer_recomputed": Case(
        model="deepseek",
        layout=Layout(dp_shard=2, ep=2, sharded="optimizer"),
        recompute=SelectiveRecompute(),
        is_slow=True,
    ),
}
"""Six experts do not come out even over four shards, nor three over two: they are cut by their width."""


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
    **_SHARDED,
    **_RECOMPUTED,
    **_OFFLOADED,
    "gpt_oss_ep2": Case(model="gpt_oss", layout=_EXPERT["ep2"]),
}
