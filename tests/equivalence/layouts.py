"""The layouts that are compared with one rank, and the models on which they are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch

from firstlight.config.model import ModelConfig
from firstlight.config.pipeline import PipelineConfig
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
from firstlight.layout.mesh import RANK_AXES, Layout
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, of_family

_SINGLE: Mapping[str, ModelConfig] = {
    "llama": llama(initializer_range=0.1),
    "tied": llama(initializer_range=0.1, tie_word_embeddings=True),
    "deep_tied": llama(initializer_range=0.1, tie_word_embeddings=True, num_hidden_layers=4),
    "deepseek": deepseek(
        multi_token_prediction={},
        initializer_range=0.1,
        router={"sequence_balance_loss": 0.5, "bias_update_rate": 0.01},
    ),
    "deepseek_z": deepseek(
        initializer_range=0.1,
        multi_token_prediction={},
        z_loss=0.3,
        logit_soft_cap=0.5,
        router={"sequence_balance_loss": 0.5, "bias_update_rate": 0.01, "z_loss": 0.7},
    ),
    "few_experts": deepseek(
        initializer_range=0.1,
        router={"n_group": 1, "topk_group": 1, "bias_update_rate": 0.01},
        feed_forward={"n_routed_experts": 2},
    ),
    "six_experts": deepseek(
        initializer_range=0.1,
        feed_forward={"n_routed_experts": 6},
        router={"n_group": 1, "topk_group": 1, "sequence_balance_loss": 0.5, "bias_update_rate": 0.01},
    ),
    **{family: of_family(family, initializer_range=0.1) for family in OTHER_FAMILIES},
}
PACKED: Mapping[str, str] = {model: f"{model}_packed" for model in ("llama", "deepseek", "gpt_oss")}
"""The names under which models read rows of several documents."""

CLIPPED: Mapping[str, float] = {"deepseek_clipped": 0.2, "llama_clipped": 0.35}
"""The names under which models have their attention logits clipped at about the median of their heads' largest."""

MODELS: Mapping[str, ModelConfig] = {
    **_SINGLE,
    **{packed: _SINGLE[model] for model, packed in PACKED.items()},
    **{clipped: _SINGLE[clipped.removesuffix("_clipped")] for clipped in CLIPPED},
}
STAGES: tuple[Sharded, ...] = get_args(Sharded)
SINGLE = "_fp32"
"""The end of the names of cases in fp32."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model in a layout."""

    model: str
    layout: Layout
    pipeline: PipelineConfig = PipelineConfig()
    recompute: Recompute = NoRecompute()
    offload: OffloadConfig = OffloadConfig()
    dtype: torch.dtype = torch.float64

    @property
    def learning_rate(self) -> float:
        """Of AdamW, which turns what rounding leaves of a gradient near zero into a whole step: in fp32, at 0.01, that
        makes of 1e-6 in the first step's gradients 1e-5 in those of the third."""
        return 0.01 if self.dtype == torch.float64 else 0.001

    @property
    def alone(self) -> str:
        """The case of one rank with which it is compared."""
        return f"{self.model}_alone" + ("" if self.dtype == torch.float64 else SINGLE)

    @property
    def arrangement(self) -> str:
        """Its layout in words: all degrees but 1, and the schedule where there is one."""
        layout = self.layout
        degrees = {axis: layout.degrees()[axis] for axis in (*RANK_AXES, "ep", "etp")}
        words = [f"{axis} {degree}" for axis, degree in degrees.items() if degree > 1]
        if layout.cp > 1:
            words.append("ring" if layout.cp_heads == 1 else "all_to_all" if layout.cp_ring == 1 else "mixed")
        if layout.pp > 1:
            words.append(self.pipeline.schedule)
        if layout.sharded != "all":
            words.append(f"sharded {layout.sharded}")
        return ", ".join(words)


_EXPERT: Mapping[str, Layout] = {
    "ep2": Layout(dp_shard=2, ep=2),
    "ep4": Layout(dp_shard=4, ep=4),
    "ep2_edp2": Layout(dp_shard=4, ep=2),
    "ep2_replicated": Layout(dp_replicate=2, dp_shard=2, ep=2),
}
_SLICED: Mapping[str, Layout] = {
    "etp2": Layout(dp_shard=2, etp=2),
    "dp4_etp2": Layout(dp_shard=4, etp=2),
    "dp4_etp4": Layout(dp_shard=4, etp=4),
    "dp4_ep2_etp2": Layout(dp_shard=4, ep=2, etp=2),
    "tp2_dp2_ep2_etp2": Layout(tp=2, dp_shard=2, ep=2, etp=2),
    "cp2_tp2_etp2": Layout(cp=2, tp=2, etp=2),
    "replicated_etp2": Layout(dp_replicate=2, dp_shard=2, etp=2),
    "replicated_tp2_dp2_ep2_etp2": Layout(dp_replicate=2, dp_shard=2, tp=2, ep=2, etp=2),
    "tp2_dp4_ep2_etp2": Layout(tp=2, dp_shard=4, ep=2, etp=2),
}
"""Experts cut over neighbours."""

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
_PIPELINE: Mapping[str, Layout] = {
    "pp2": Layout(pp=2),
    "pp4": Layout(pp=4),
    "pp2_dp2": Layout(pp=2, dp_shard=2),
    "pp2_tp2": Layout(pp=2, tp=2),
    "pp2_dp2_ep2": Layout(pp=2, dp_shard=2, ep=2),
    "pp2_tp2_ep2": Layout(pp=2, tp=2, ep=2),
    "pp2_dp2_tp2_ep2": Layout(pp=2, dp_shard=2, tp=2, ep=2),
    "pp2_dp2_tp2_ep4": Layout(pp=2, dp_shard=2, tp=2, ep=4),
    "pp2_replicated_tp2": Layout(pp=2, dp_replicate=2, tp=2),
    "pp2_cp2": Layout(pp=2, cp=2),
    "pp2_cp2_tp2": Layout(pp=2, cp=2, cp_heads=2, tp=2),
    "pp2_cp2_dp2_ep4": Layout(pp=2, cp=2, dp_shard=2, ep=4),
    "pp2_dp2_etp2": Layout(pp=2, dp_shard=2, etp=2),
}


def _pipelined(model: str, layout: str, **section: Any) -> Case:
    pipeline = PipelineConfig.model_validate(section)
    return Case(model=model, layout=_PIPELINE[layout], pipeline=pipeline)


PIPELINED: Mapping[str, Case] = {
    "deepseek_pp2": _pipelined("deepseek", "pp2"),
    "tied_pp2": _pipelined("tied", "pp2", schedule="gpipe"),
    "llama_pp2": _pipelined("llama", "pp2"),
    "deepseek_pp2_interleaved": _pipelined("deepseek", "pp2", schedule="interleaved_1f1b"),
    "deepseek_pp2_bfs": _pipelined("deepseek", "pp2", schedule="looped_bfs"),
    "deepseek_pp2_zero_bubble": _pipelined("deepseek", "pp2", schedule="interleaved_zero_bubble"),
    "deepseek_pp2_zbv": _pipelined("deepseek", "pp2", schedule="zbv_zero_bubble"),
    "deepseek_pp2_dualpipe": _pipelined("deepseek", "pp2", schedule="dualpipe_v"),
    "deepseek_pp2_recomputed": replace(_pipelined("deepseek", "pp2"), recompute=FullRecompute()),
    "deepseek_pp2_zbv_recomputed": replace(
        _pipelined("deepseek", "pp2", schedule="zbv_zero_bubble"), recompute=FullRecompute()
    ),
    "deepseek_pp2_uneven": _pipelined("deepseek", "pp2", split={"kind": "layers", "layers": [3, 0]}),
    "deepseek_pp4": _pipelined("deepseek", "pp4"),
    "deepseek_pp2_dp2": _pipelined("deepseek", "pp2_dp2"),
    "deepseek_pp2_tp2": _pipelined("deepseek", "pp2_tp2"),
    "deepseek_pp2_dp2_ep2": _pipelined("deepseek", "pp2_dp2_ep2"),
    "deepseek_pp2_dp2_ep2_zbv": _pipelined("deepseek", "pp2_dp2_ep2", schedule="zbv_zero_bubble"),
    "deepseek_pp2_tp2_ep2_dualpipe": _pipelined("deepseek", "pp2_tp2_ep2", schedule="dualpipe_v"),
    "deep_tied_pp2_tp2_zbv": _pipelined("deep_tied", "pp2_tp2", schedule="zbv_zero_bubble"),
    "deepseek_pp2_dp2_etp2_zbv": _pipelined("deepseek", "pp2_dp2_etp2", schedule="zbv_zero_bubble"),
    "deepseek_pp2_cp2": _pipelined("deepseek", "pp2_cp2"),
    "deepseek_pp2_cp2_tp2": _pipelined("deepseek", "pp2_cp2_tp2", schedule="zbv_zero_bubble"),
    "deepseek_pp2_cp2_dp2_ep4": _pipelined("deepseek", "pp2_cp2_dp2_ep4"),
    "deepseek_pp2_dp2_tp2_ep2": _pipelined("deepseek", "pp2_dp2_tp2_ep2"),
    "deepseek_pp2_dp2_tp2_ep4": _pipelined("deepseek", "pp2_dp2_tp2_ep4", schedule="interleaved_1f1b"),
    "deepseek_pp2_replicated_tp2": _pipelined("deepseek", "pp2_replicated_tp2"),
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

_RECOMPUTED: Mapping[str, Case] = {
    f"deepseek_{name}_{kind}": Case(
        model="deepseek",
        layout=layout,
        recompute=recompute,
    )
    for name, layout in {"ep2": _EXPERT["ep2"], "tp2_ep2": _BOTH["tp2_ep2"], "ep2_edp2": _EXPERT["ep2_edp2"]}.items()
    for kind, recompute in _KINDS.items()
}
_TO_HOST = OffloadConfig(activations=LayerRange(), optimizer_state="host")
_OFFLOADED: Mapping[str, Case] = {
    "deepseek_dp2_offloaded": Case(model="deepseek", layout=Layout(dp_shard=2), offload=_TO_HOST),
    "deepseek_tp2_ep2_offloaded": Case(
        model="deepseek", layout=_BOTH["tp2_ep2"], offload=_TO_HOST, recompute=SelectiveRecompute()
    ),
    "deepseek_ep2_edp2_offloaded": Case(
        model="deepseek", layout=_EXPERT["ep2_edp2"], offload=_TO_HOST, recompute=FullRecompute()
    ),
}
"""On CPU, copies to host memory are copies all the same."""
_SHARDED: Mapping[str, Case] = {
    **{
        f"deepseek_dp2_{sharded}": Case(model="deepseek", layout=Layout(dp_shard=2, sharded=sharded))
        for sharded in STAGES
    },
    **{
        f"deepseek_{name}_{sharded}": Case(model="deepseek", layout=replace(layout, sharded=sharded))
        for name, layout in {"replicated": _REPLICATED, "ep2_edp2": _EXPERT["ep2_edp2"], **_BOTH}.items()
        for sharded in STAGES
    },
    "six_experts_ep2_edp2": Case(model="six_experts", layout=_EXPERT["ep2_edp2"]),
    "six_experts_dp4": Case(model="six_experts", layout=Layout(dp_shard=4)),
    "tied_dp2_optimizer": Case(model="tied", layout=Layout(dp_shard=2, sharded="optimizer")),
    "deepseek_dp2_optimizer_recomputed": Case(
        model="deepseek",
        layout=Layout(dp_shard=2, ep=2, sharded="optimizer"),
        recompute=SelectiveRecompute(),
    ),
}
"""Six experts do not come out even over four shards, nor three over two: they are cut by their width."""


def _has_experts(family: str) -> bool:
    return MODELS[family].feed_forward.kind == "moe"


_CLIPPED: Mapping[str, Case] = {
    "llama_clipped_tp2": Case(model="llama_clipped", layout=_TENSOR["tp2"]),
    "llama_clipped_cp2_ring": Case(model="llama_clipped", layout=_CONTEXT["cp2_ring"], recompute=FullRecompute()),
    "llama_clipped_cp2_all_to_all": Case(model="llama_clipped", layout=_CONTEXT["cp2_all_to_all"]),
    "deepseek_clipped_cp2_ring": Case(model="deepseek_clipped", layout=_CONTEXT["cp2_ring"]),
    "deepseek_clipped_dp2": Case(
        model="deepseek_clipped", layout=Layout(dp_shard=2, sharded="optimizer"), recompute=SelectiveRecompute()
    ),
    "deepseek_clipped_tp2_dp2_ep2": Case(
        model="deepseek_clipped", layout=_BOTH["tp2_dp2_ep2"], recompute=SelectiveRecompute(kept=("products",))
    ),
    "deepseek_clipped_pp2": Case(
        model="deepseek_clipped", layout=_PIPELINE["pp2"], pipeline=PipelineConfig(schedule="zbv_zero_bubble")
    ),
    "deepseek_clipped_pp2_cp2": Case(model="deepseek_clipped", layout=_PIPELINE["pp2_cp2"]),
    "deepseek_clipped_pp2_cp2_tp2": Case(model="deepseek_clipped", layout=_PIPELINE["pp2_cp2_tp2"]),
}
"""The largest logit of a head lies on one rank, in one micro-batch, and every rank clips by it."""

_DOUBLE: Mapping[str, Case] = {
    **{f"{model}_alone": Case(model=model, layout=Layout()) for model in MODELS},
    **{f"deepseek_{name}": Case(model="deepseek", layout=layout) for name, layout in _EXPERT.items()},
    **{f"deepseek_{name}": Case(model="deepseek", layout=layout) for name, layout in {**_TENSOR, **_BOTH}.items()},
    **{f"{model}_tp2": Case(model=model, layout=_TENSOR["tp2"]) for model in ("llama", "tied", "gpt_oss")},
    **{
        f"{family}_tp2": Case(model=family, layout=_BOTH["tp2_ep2"] if _has_experts(family) else _TENSOR["tp2"])
        for family in OTHER_FAMILIES
        if family != "gpt_oss"
    },
    "llama_tp2_dp2": Case(model="llama", layout=_TENSOR["tp2_dp2"]),
    **{f"deepseek_{name}": Case(model="deepseek", layout=layout) for name, layout in _EIGHT.items()},
    **{
        f"{model}_{name}": Case(model=model, layout=layout)
        for model in ("deepseek", "gpt_oss")
        for name, layout in _SLICED.items()
    },
    "few_experts_tp2_dp4_etp2": Case(model="few_experts", layout=Layout(tp=2, dp_shard=4, etp=2)),
    "deepseek_dp4_ep2_etp2_kept": Case(
        model="deepseek", layout=_SLICED["dp4_ep2_etp2"], recompute=SelectiveRecompute()
    ),
    "deepseek_dp4_ep2_etp2_recomputed": Case(
        model="deepseek", layout=_SLICED["dp4_ep2_etp2"], recompute=FullRecompute()
    ),
    "tied_tp2_dp2": Case(model="tied", layout=_TENSOR["tp2_dp2"]),
    "few_experts_dp4": Case(model="few_experts", layout=Layout(dp_shard=4)),
    "few_experts_tp2_dp2": Case(model="few_experts", layout=_TENSOR["tp2_dp2"]),
    **_SHARDED,
    **_RECOMPUTED,
    **_OFFLOADED,
    **{
        f"{model}_{name}": Case(model=model, layout=layout)
        for model in ("llama", "deepseek", "gpt_oss", *PACKED.values())
        for name, layout in _CONTEXT.items()
        if (layout.ep == 1 or _has_experts(model)) and (layout.world_size < 8 or model in _CONTEXT_EIGHT)
    },
    **{
        f"{family}_cp4_mixed": Case(model=family, layout=_CONTEXT["cp4_mixed"])
        for family in OTHER_FAMILIES
        if family != "gpt_oss"
    },
    **{
        f"deepseek_cp2_{kind}_recomputed": Case(
            model="deepseek", layout=_CONTEXT[f"cp2_{kind}"], recompute=FullRecompute()
        )
        for kind in ("ring", "all_to_all")
    },
    "gpt_oss_ep2": Case(model="gpt_oss", layout=_EXPERT["ep2"]),
    **PIPELINED,
    **_CLIPPED,
    "deepseek_z_tp2": Case(model="deepseek_z", layout=_BOTH["tp2_ep2"]),
    "deepseek_z_cp2": Case(model="deepseek_z", layout=_CONTEXT["cp2_all_to_all"]),
    "deepseek_z_pp2_cp2_tp2": Case(model="deepseek_z", layout=_PIPELINE["pp2_cp2_tp2"]),
}
_IN_SINGLE = (
    "llama_alone",
    "deepseek_alone",
    "deepseek_dp2_all",
    "deepseek_tp2_ep2",
    "deepseek_pp2_zbv",
    "deepseek_pp2_dp2_ep2",
    "deepseek_cp2_ring",
    "deepseek_cp2_all_to_all",
)
CASES: Mapping[str, Case] = {
    **_DOUBLE,
    **{f"{name}{SINGLE}": replace(_DOUBLE[name], dtype=torch.float32) for name in _IN_SINGLE},
}
QUICK = frozenset(
    {
        "tied_tp2",
        "deepseek_ep2",
        "deepseek_tp2_ep2",
        "deepseek_tp2_ep2_fp32",
        "deepseek_tp2_ep2_selective",
        "deepseek_dp2_optimizer",
        "gpt_oss_etp2",
        "llama_cp2_ring",
        "gpt_oss_packed_cp2_ring",
        "deepseek_cp2_all_to_all",
        "tied_pp2",
        "deepseek_pp2_interleaved",
        "deepseek_pp2_zbv",
        "deepseek_pp2_dualpipe",
        "deepseek_tp2_dp2_ep4",
        "six_experts_ep2_edp2",
        "deepseek_cp4_mixed",
        "gpt_oss_cp2_ring_tp2",
        "deepseek_pp2_cp2",
        "deepseek_pp2_dp2_ep2_zbv",
        "deepseek_pp2_tp2_ep2_dualpipe",
        "llama_clipped_tp2",
        "deepseek_z_tp2",
        "deepseek_clipped_cp2_ring",
        "deepseek_clipped_tp2_dp2_ep2",
    }
)
"""What every run of the tests compares: each axis, each way of cutting sequences, the schedules that differ most, pairs
and triples. The rest is slow."""
