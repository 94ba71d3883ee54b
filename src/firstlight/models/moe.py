"""Mixture of experts: routed experts and the shared expert, put together by the router.

Shapes: b batch, s sequence, t = b * s tokens, d model width, f expert width, e experts, k experts per token,
n = t * k assignments.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from firstlight.config.model import ModelConfig, MoeFeedForward
from firstlight.models.layers import FeedForward, activation_of
from firstlight.models.router import Routed, TopKRouter
from firstlight.ops.experts import Assignment, Segments, add_segment_bias, grouped_linear, within_capacity


class LayerLoad(NamedTuple):
    """What a mixture layer reports beside its output: sums over sequences of its balance loss and of its z-loss, tokens
    per expert."""

    balance_loss: Tensor
    z_loss: Tensor
    load_e: Tensor


GroupedProduct = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Rows [n, d], weights [e, o, d] and the ends of the experts' segments to [n, o], as `grouped_linear`."""


Combine = Callable[[Assignment, Tensor, Tensor], Tensor]
"""Rows [n, d] sorted by expert, and their weights [t, k], to their weighted sums [t, d], as `Assignment.combine`."""


class Experts(nn.Module):
    """The routed experts' weights, stacked [e, out, in], and their biases [e, out] where they have any."""

    def __init__(self, hidden_size: int, config: MoeFeedForward) -> None:
        super().__init__()
        experts, width = config.n_routed_experts, config.moe_intermediate_size
        self.gate_proj = nn.Parameter(torch.empty(experts, width, hidden_size))
        self.up_proj = nn.Parameter(torch.empty(experts, width, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden_size, width))
        self.gate_bias: nn.Parameter | None = None
        self.up_bias: nn.Parameter | None = None
        self.down_bias: nn.Parameter | None = None
        if config.has_expert_bias:
            self.gate_bias = nn.Parameter(torch.empty(experts, width))
            self.up_bias = nn.Parameter(torch.empty(experts, width))
            self.down_bias = nn.Parameter(torch.empty(experts, hidden_size))
        self.activation = activation_of(config.activation)
        self.product: GroupedProduct = grouped_linear

    def forward(self, rows_nd: Tensor, segments: Segments) -> Tensor:
        """Each row through the expert of its segment."""
        gate_nf = self._project(rows_nd, self.gate_proj, self.gate_bias, segments)
        up_nf = self._project(rows_nd, self.up_proj, self.up_bias, segments)
        return self._project(self.activation(gate_nf, up_nf), self.down_proj, self.down_bias, segments)

    def _project(self, rows_nd: Tensor, weight_eod: Tensor, bias_eo: Tensor | None, segments: Segments) -> Tensor:
        out_no = self.product(rows_nd, weight_eod, segments.ends_e)
        return out_no if bias_eo is None else add_segment_bias(out_no, bias_eo, segments.counts_e)


ExpertRun = Callable[[Experts, Tensor, Segments], Callable[[], Tensor]]
"""Rows [n, d] sorted by expert, through their experts, in the same order: what is returned gives them when they are
asked for, once. Until then they may be on their way."""


def run_here(experts: Experts, rows_nd: Tensor, segments: Segments) -> Callable[[], Tensor]:
    """All experts are here."""
    out: Tensor = experts(rows_nd, segments)
    return lambda: out


def mixture_names(model: ModelConfig) -> list[str]:
    """The names of the layers of the whole model that have a mixture, those of multi-token prediction last."""
    if not isinstance(model.feed_forward, MoeFeedForward):
        return []
    names = [f"layers.{layer}" for layer in range(model.num_hidden_layers)]
    names += [f"mtp.{depth}.block" for depth in range(model.num_mtp_layers)]
    return [name for layer, name in enumerate(names) if model.is_moe_layer(layer)]


class MixtureOfExperts(nn.Module):
    """y = shared(x) + sum over the chosen experts of weight * expert(x).

    No token is dropped, unless a capacity is configured for comparison: then the weight of what an expert has no room
    for is zero (its product is computed all the same). `run_experts` brings rows to where their experts are.
    """

    def __init__(self, hidden_size: int, config: MoeFeedForward) -> None:
        super().__init__()
        self.router = TopKRouter(hidden_size, config.n_routed_experts, config.router)
        self.experts = Experts(hidden_size, config)
        self.run_experts: ExpertRun = run_here
        self.combine: Combine = Assignment.combine
        self.shared_expert: FeedForward | None = None
        if config.n_shared_experts:
            # Several shared experts are one of their joint width: the activation acts on each column alone.
            width = config.moe_intermediate_size * config.n_shared_experts
            self.shared_expert = FeedForward(hidden_size, width, config.activation)

    def forward(self, hidden_bsd: Tensor) -> tuple[Tensor, LayerLoad]:
        routed: Routed = self.router(hidden_bsd)
        tokens_td = hidden_bsd.flatten(0, 1)
        assignment = Assignment(routed.experts_tk, self.router.num_experts)
        weights_tk = self._with_capacity(routed.weights_tk, assignment)
        results = self.run_experts(self.experts, assignment.dispatch(tokens_td), assignment)
        # It has no need of the rows that are on their way.
        shared_bsd = None if self.shared_expert is None else self.shared_expert(hidden_bsd)
        rows_nd = results()
        out_td = self.combine(assignment, rows_nd, weights_tk.to(rows_nd.dtype))
        out_bsd = out_td.unflatten(0, hidden_bsd.shape[:2])
        if shared_bsd is not None:
            out_bsd = out_bsd + shared_bsd
        return out_bsd, LayerLoad(routed.balance_loss, routed.z_loss, routed.load_e)

    def _with_capacity(self, weights_tk: Tensor, assignment: Assignment) -> Tensor:
        factor = self.router.config.capacity_factor
        if factor is None:
            return weights_tk
        capacity = math.ceil(factor * weights_tk.numel() / self.router.num_experts)
        return weights_tk * within_capacity(assignment, weights_tk, capacity)
