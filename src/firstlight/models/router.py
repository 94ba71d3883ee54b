"""The router: scores each expert for each token, chooses, weighs, and measures how evenly experts are used.

Shapes: b batch, s sequence, t = b * s tokens, d model width, e experts, g groups, m members of a group, k experts per
token.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.config.router import AnyRouter, GroupedRouting, SigmoidRouter, TopKSoftmaxRouter

_GROUP_SCORE_SIZE = 2
"""A sigmoid router scores a group by the sum of this many of its best experts (DeepSeek-V3's inference code)."""


class Routed(NamedTuple):
    """Chosen experts and their weights [t, k], the sums over sequences of the balance loss and of the mean squared
    log-sum-exp of the logits (zero where that has no weight), tokens per expert [e]."""

    experts_tk: Tensor
    weights_tk: Tensor
    balance_loss: Tensor
    z_loss: Tensor
    load_e: Tensor


class TopKRouter(nn.Module):
    """Every kind of router of the configuration, all in fp32.

    A sigmoid router has a `bias` that steers the choice only; weights come from the scores without it. It is a buffer:
    no gradient, no decay. `logit_bias` is a learned part of the logits. When a sequence is cut into `num_parts` equal
    parts, of which one is routed here, `sum_over_parts` brings what all of them measure together.
    """

    bias: Tensor | None

    def __init__(self, hidden_size: int, num_experts: int, config: AnyRouter) -> None:
        super().__init__()
        self.config = config
        self.num_experts = num_experts
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        has_bias = isinstance(config, SigmoidRouter)
        self.register_buffer("bias", torch.zeros(num_experts, dtype=torch.float32) if has_bias else None)
        self.sum_over_parts: Callable[[Tensor], Tensor] = _alone
        self.num_parts = 1
        self.logit_bias: nn.Parameter | None = None
        if isinstance(config, TopKSoftmaxRouter) and config.has_logit_bias:
            self.logit_bias = nn.Parameter(torch.empty(num_experts))

    def forward(self, hidden_bsd: Tensor) -> Routed:
        """Route every token of [b, s, d]."""
        with torch.autocast(hidden_bsd.device.type, enabled=False):
            precise = torch.float64 if hidden_bsd.dtype == torch.float64 else torch.float32
            logit_bias = None if self.logit_bias is None else self.logit_bias.to(precise)
            logits_bse = F.linear(hidden_bsd.to(precise), self.weight.to(precise), logit_bias)
            is_sigmoid = isinstance(self.config, SigmoidRouter)
            scores_bse = logits_bse.sigmoid() if is_sigmoid else logits_bse.softmax(-1)
            if self.config.force_balance is None:
                experts_tk = self._choose(scores_bse.detach().flatten(0, 1))
            else:
                experts_tk = self._deal(hidden_bsd.shape[0] * hidden_bsd.shape[1], device=hidden_bsd.device)
            return Routed(
                experts_tk=experts_tk,
                weights_tk=self._weights(logits_bse.flatten(0, 1), scores_bse.flatten(0, 1), experts_tk),
                balance_loss=self._balance_loss(scores_bse),
                z_loss=self._z_loss(logits_bse),
                load_e=self.sum_over_parts(torch.bincount(experts_tk.flatten(), minlength=self.num_experts)),
            )

    def _choose(self, scores_te: Tensor) -> Tensor:
        """The k best experts by (biased) score, within the best groups. Larger logits have larger scores."""
        config = self.config
        choice_te = scores_te if self.bias is None else scores_te + self.bias
        if isinstance(config, GroupedRouting) and config.n_group > 1:
            choice_tgm = choice_te.unflatten(1, (config.n_group, -1))
            best = min(1 if self.bias is None else _GROUP_SCORE_SIZE, choice_tgm.shape[-1])
            groups = choice_tgm.topk(best, dim=-1).values.sum(-1).topk(config.topk_group, dim=-1, sorted=False).indices
            is_kept = torch.zeros(choice_tgm.shape[:2], dtype=torch.bool, device=choice_te.device)
            is_kept.scatter_(1, groups, True)  # noqa: FBT003
            # Minus infinity, not zero: a biased score can be negative.
            choice_te = choice_tgm.masked_fill(~is_kept.unsqueeze(-1), float("-inf")).flatten(1)
        return choice_te.topk(config.num_experts_per_tok, dim=-1, sorted=False).indices

    def _deal(self, num_tokens: int, *, device: torch.device) -> Tensor:
        """Experts without regard to scores: in turn, or drawn without repetition, alike in every call."""
        top_k = self.config.num_experts_per_tok
        if self.config.force_balance == "round_robin":
            turns_tk = torch.arange(num_tokens * top_k, device=device).view(num_tokens, top_k)
            return turns_tk % self.num_experts
        generator = torch.Generator(device).manual_seed(num_tokens)
        drawn_te = torch.rand(num_tokens, self.num_experts, generator=generator, device=device)
        return drawn_te.topk(top_k, dim=-1, sorted=False).indices

    def _weights(self, logits_te: Tensor, scores_te: Tensor, experts_tk: Tensor) -> Tensor:
        if not isinstance(self.config, GroupedRouting):
            return logits_te.gather(1, experts_tk).softmax(-1)
        weights_tk = scores_te.gather(1, experts_tk)
        if self.config.norm_topk_prob:
            weights_tk = weights_tk / (weights_tk.sum(-1, keepdim=True) + 1e-20)
        return weights_tk * self.config.routed_scaling_factor

    def _balance_loss(self, scores_bse: Tensor) -> Tensor:
        """Sum over sequences of sum_i f_i P_i (DeepSeek-V3, equations 17 to 20); 1 where load is perfectly balanced.

        f counts the raw scores' top k, without bias and groups; the gradient flows through P only. Over a micro-batch
        f and P are means over all its tokens, and each of its sequences counts the same loss.
        """
        top_k = self.config.num_experts_per_tok
        chosen = scores_bse.detach().topk(top_k, dim=-1, sorted=False).indices
        is_chosen_bse = torch.zeros_like(scores_bse, requires_grad=False).scatter_(-1, chosen, 1.0)
        share_bse = scores_bse / scores_bse.sum(-1, keepdim=True)
        chosen_be, probability_be = self._means(is_chosen_bse, share_bse).unbind()
        frequency_be = chosen_be * (self.num_experts / top_k)
        if self.config.balance_scope == "micro_batch":
            frequency_be, probability_be = frequency_be.mean(0, keepdim=True), probability_be.mean(0, keepdim=True)
            return (frequency_be * probability_be).sum() * scores_bse.shape[0]
        return (frequency_be * probability_be).sum()

    def _z_loss(self, logits_bse: Tensor) -> Tensor:
        """Sum over sequences of the mean over positions of (log sum_i exp x_i)^2."""
        if not self.config.z_loss:
            return logits_bse.new_zeros(())
        return self._means(logits_bse.logsumexp(-1, keepdim=True).square()).sum()

    def _means(self, *terms_bse: Tensor) -> Tensor:
        """Of each term over the positions of each whole sequence, [terms, b, e]."""
        return self.sum_over_parts(torch.stack([term.mean(1) for term in terms_bse])) / self.num_parts


def _alone(tensor: Tensor) -> Tensor:
    return tensor
