"""Which implementation of its operators a model computes with: the one place that lists them.

What is taken without a choice is what modules are built with; operators decide between cases themselves, by device,
type and shape. A choice replaces them from outside.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from firstlight.base.causal_blocks import MAX_LENGTH
from firstlight.base.errors import InputError
from firstlight.config.kernels import KernelsConfig
from firstlight.config.model import GroupedQueryAttention, ModelConfig, MoeFeedForward
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import Stage
from firstlight.models.attention import GroupedQuery, MultiHeadLatent
from firstlight.models.decoder import Decoder, TokenLossHere
from firstlight.models.family import Builder
from firstlight.models.layers import RmsNorm
from firstlight.models.moe import Experts, GroupedProduct, MixtureOfExperts
from firstlight.ops.attention import (
    Attend,
    CausalAttention,
    Visibility,
    reference_causal_attention,
    torch_attention,
)
from firstlight.ops.attention_cpu import blocked_attention
from firstlight.ops.attention_logits import raise_to_causal
from firstlight.ops.cross_entropy import SummedLoss, reference_summed_cross_entropy, summed_cross_entropy
from firstlight.ops.experts import (
    grouped_linear,
    reference_combine,
    reference_grouped_linear,
    takes_grouped_mm,
)
from firstlight.ops.norm import Normalise, reference_rms_norm, rms_norm
from firstlight.parallel.arithmetic import Arithmetic


def reference_attention(
    query_bhsk: Tensor,
    key_bgsk: Tensor,
    value_bgsv: Tensor,
    *,
    scale: float,
    visibility: Visibility | None = None,
    window: int | None = None,
    sinks_h: Tensor | None = None,
    largest_h: Tensor | None = None,
) -> Tensor:
    """As `causal_attention`, by the definition."""
    if largest_h is not None:
        documents_bs = None if visibility is None else visibility.documents_bs
        raise_to_causal(largest_h, query_bhsk, key_bgsk, scale=scale, window=window, documents_bs=documents_bs)
    return reference_causal_attention(
        query_bhsk, key_bgsk, value_bgsv, scale=scale, visibility=visibility, window=window, sinks_h=sinks_h
    )


ATTENTION: Mapping[str, Attend] = {
    "blocks": CausalAttention(blocked_attention),
    "fused": CausalAttention(torch_attention),
    "reference": reference_attention,
}
EXPERTS: Mapping[str, GroupedProduct] = {"grouped_mm": grouped_linear, "reference": reference_grouped_linear}
NORM: Mapping[str, Normalise] = {"fused": rms_norm, "reference": reference_rms_norm}
LOSS: Mapping[str, SummedLoss] = {
    "linear_cross_entropy": summed_cross_entropy,
    "reference": reference_summed_cross_entropy,
}


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What a choice by itself depends on, beside model and layout: the device, and the longest sequence."""

    device: torch.device
    longest: int


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The choices of a run, and what they come to on this rank."""

    chosen: KernelsConfig
    taken: Mapping[str, str]
    """The name of what computes, by operator."""

    @classmethod
    def of(
        cls,
        chosen: KernelsConfig,
        model: ModelConfig,
        layout: Layout,
        arithmetic: Arithmetic,
        place: "Circumstances",
    ) -> "Kernels":
        """The configuration's rules hold. Raises InputError for a kernel that the device does not have."""
        if chosen.attention == "blocks" and place.device.type != "cpu":
            raise InputError(
                f"kernels.attention = blocks is a kernel for CPU, and this device is {place.device.type}; use auto or "
                "fused"
            )
        taken = {
            "attention": _attention(model, layout, arithmetic, place),
            "experts": _experts(model, layout, arithmetic),
            "norm": "fused",
            "loss": _loss(model, layout),
        }
        taken |= {name: choice for name, choice in chosen.model_dump().items() if choice != "auto"}
        if not isinstance(model.feed_forward, MoeFeedForward):
            taken.pop("experts")
        return cls(chosen=chosen, taken=taken)

    def describe(self) -> str:
        """For the log."""
        return "kernels: " + ", ".join(f"{operator} {name}" for operator, name in self.taken.items())

    def in_what(self, build: Builder) -> Builder:
        """`build`, with the chosen kernels in what it makes."""

        def with_kernels(config: ModelConfig, stage: Stage | None) -> Decoder:
            model = build(config, stage)
            self._replace_in(model)
            return model

        return with_kernels

    def _replace_in(self, model: Decoder) -> None:
        chosen = self.chosen
        for module in model.modules():
            match module:
                case GroupedQuery() | MultiHeadLatent() if chosen.attention != "auto":
                    module.attend = ATTENTION[chosen.attention]
                case Experts() if chosen.experts != "auto":
                    module.product = EXPERTS[chosen.experts]
                case MixtureOfExperts() if chosen.experts == "reference":
                    module.combine = reference_combine
                case RmsNorm() if chosen.norm != "auto":
                    module.normalise = NORM[chosen.norm]
                case _:
                    pass
        if chosen.loss != "auto":
            model.token_loss = TokenLossHere(model.config, LOSS[chosen.loss])


def _attention(model: ModelConfig, layout: Layout, arithmetic: Arithmetic, place: Circumstances) -> str:
    if layout.cp == 1:
        is_precise = arithmetic.product_dtype is None and arithmetic.parameter_dtype is None
        has_window = isinstance(model.attention, GroupedQueryAttention) and model.attention.window is not None
        if place.device.type != "cpu" or not is_precise or place.longest > MAX_LENGTH:
            return "fused"
        return "blocks where no window is" if has_window else "blocks"
    return "ring" if layout.cp_heads == 1 else "exchanged heads" if layout.cp_heads == layout.cp else "rings of heads"


def _experts(model: ModelConfig, layout: Layout, arithmetic: Arithmetic) -> str:
    if arithmetic.fp8 is not None:
        return "8-bit products"
    if not isinstance(model.feed_forward, MoeFeedForward):
        return "none"
    dtype = arithmetic.product_dtype or arithmetic.parameter_dtype or torch.float32
    widths = model.hidden_size, model.feed_forward.moe_intermediate_size // layout.etp
    return "grouped_mm" if takes_grouped_mm(dtype, widths) else "reference"


def _loss(model: ModelConfig, layout: Layout) -> str:
    if layout.tp > 1:
        return "cut vocabulary"
    return "reference" if model.z_loss > 0 or model.logit_soft_cap is not None else "linear_cross_entropy"
