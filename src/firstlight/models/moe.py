"""Mixture of experts: router, routed experts, shared expert, and the balancing of their load.

Shapes: b batch, s sequence, t = b * s tokens, d model width, f expert width, e experts, k experts per token,
n = t * k assignments.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.config.model import MoeFeedForward, Router
from firstlight.models.layers import SwiGlu
from firstlight.ops.experts import Assignment, grouped_linear

_GROUP_SCORE_SIZE = 2
"""A group is scored by the sum of this many of its best experts (DeepSeek-V3's inference code)."""


class Routing(NamedTuple):
    """Chosen experts and their weights [t, k], the sum over sequences of the balance loss, tokens per expert [e]."""

    experts_tk: Tensor
    weights_tk: Tensor
    balance_loss: Tensor
    load_e: Tensor


class LayerLoad(NamedTuple):
    """What a mixture layer reports beside its output: sum over sequences of its balance loss, tokens per expert."""

    balance_loss: Tensor
    load_e: Tensor


class TopKRouter(nn.Module):
    """DeepSeek-V3's sigmoid router with group-limited choice (arXiv:2412.19437, equations 12 to 20), all in fp32.

    `bias` steers the choice only; weights come from the scores without it. It is a buffer: no gradient, no decay.
    """

    bias: Tensor

    def __init__(self, hidden_size: int, num_experts: int, config: Router) -> None:
        super().__init__()
        self.config = config
        self.num_experts = num_experts
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.register_buffer("bias", torch.zeros(num_experts, dtype=torch.float32))

    def forward(self, hidden_bsd: Tensor) -> Routing:
        """Route every token of [b, s, d]."""
        with torch.autocast(hidden_bsd.device.type, enabled=False):
            precise = torch.float64 if hidden_bsd.dtype == torch.float64 else torch.float32
            scores_bse = F.linear(hidden_bsd.to(precise), self.weight.to(precise)).sigmoid()
            scores_te = scores_bse.flatten(0, 1)
            experts_tk = self._choose(scores_te.detach())
            weights_tk = scores_te.gather(1, experts_tk)
            if self.config.norm_topk_prob:
                weights_tk = weights_tk / (weights_tk.sum(-1, keepdim=True) + 1e-20)
            return Routing(
                experts_tk=experts_tk,
                weights_tk=weights_tk * self.config.routed_scaling_factor,
                balance_loss=self._balance_loss(scores_bse),
                load_e=torch.bincount(experts_tk.flatten(), minlength=self.num_experts),
            )

    def _choose(self, scores_te: Tensor) -> Tensor:
        """The k best experts by biased score, within the best groups."""
        config = self.config
        choice_te = scores_te + self.bias
        if config.n_group > 1:
            choice_tgm = choice_te.unflatten(1, (config.n_group, -1))
            best = min(_GROUP_SCORE_SIZE, choice_tgm.shape[-1])
            groups = choice_tgm.topk(best, dim=-1).values.sum(-1).topk(config.topk_group, dim=-1, sorted=False).indices
            is_kept = torch.zeros(choice_tgm.shape[:2], dtype=torch.bool, device=choice_te.device)
            is_kept.scatter_(1, groups, True)  # noqa: FBT003
            # Minus infinity, not zero: a biased score can be negative.
            choice_te = choice_tgm.masked_fill(~is_kept.unsqueeze(-1), float("-inf")).flatten(1)
        return choice_te.topk(config.num_experts_per_tok, dim=-1, sorted=False).indices

    def _balance_loss(self, scores_bse: Tensor) -> Tensor:
        """Sum over sequences of sum_i f_i P_i (equations 17 to 20); 1 for a perfectly balanced sequence.

        f counts the raw scores' top k, without bias and groups; the gradient flows through P only.
        """
        top_k = self.config.num_experts_per_tok
        chosen = scores_bse.detach().topk(top_k, dim=-1, sorted=False).indices
        is_chosen_bse = torch.zeros_like(scores_bse, requires_grad=False).scatter_(-1, chosen, 1.0)
        frequency_be = is_chosen_bse.mean(1) * (self.num_experts / top_k)
        probability_be = (scores_bse / scores_bse.sum(-1, keepdim=True)).mean(1)
        return (frequency_be * probability_be).sum()


class Experts(nn.Module):
    """The routed experts' SwiGLU weights, stacked [e, out, in]."""

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(num_experts, intermediate_size, hidden_size))
        self.up_proj = nn.Parameter(torch.empty(num_experts, intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))

    def forward(self, rows_nd: Tensor, ends_e: Tensor) -> Tensor:
        """Each row through the expert of its segment."""
        gate_nf = grouped_linear(rows_nd, self.gate_proj, ends_e)
        up_nf = grouped_linear(rows_nd, self.up_proj, ends_e)
        return grouped_linear(F.silu(gate_nf) * up_nf, self.down_proj, ends_e)


class MixtureOfExperts(nn.Module):
    """y = shared(x) + sum over the chosen experts of weight * expert(x). No token is dropped."""

    def __init__(self, hidden_size: int, config: MoeFeedForward) -> None:
        super().__init__()
        self.router = TopKRouter(hidden_size, config.n_routed_experts, config.router)
        self.experts = Experts(config.n_routed_experts, hidden_size, config.moe_intermediate_size)
        self.shared_expert: SwiGlu | None = None
        if config.n_shared_experts:
            # Several shared experts are one of their joint width: SwiGLU acts on each column alone.
            self.shared_expert = SwiGlu(hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, hidden_bsd: Tensor) -> tuple[Tensor, LayerLoad]:
        routing: Routing = self.router(hidden_bsd)
        tokens_td = hidden_bsd.flatten(0, 1)
        assignment = Assignment(routing.experts_tk, self.router.num_experts)
        rows_nd = self.experts(assignment.dispatch(tokens_td), assignment.ends_e)
        out_td = assignment.combine(rows_nd, routing.weights_tk.to(rows_nd.dtype))
        out_bsd = out_td.unflatten(0, hidden_bsd.shape[:2])
        if self.shared_expert is not None:
            out_bsd = out_bsd + self.shared_expert(hidden_bsd)
        return out_bsd, LayerLoad(routing.balance_loss, routing.load_e)
