"""How tokens choose experts: one section for each way of scoring."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from firstlight.config.schedule import Scheduled
from firstlight.config.section import Count, NotNegative, Positive, Section

BalanceScope = Literal["sequence", "micro_batch"]


class Routing(Section):
    """What every router has: how many experts a token gets, and means for comparison and dry runs."""

    num_experts_per_tok: Count
    z_loss: NotNegative = 0.0
    """Weight of each layer's mean squared log-sum-exp of the router's logits (ST-MoE, arXiv:2202.08906, equation 5)."""
    capacity_factor: Positive | None = None
    """For comparison only: an expert takes at most this many times its even share of a micro-batch's assignments, the
    strongest ones; the others count as nothing. null drops no token."""
    force_balance: Literal["round_robin", "random"] | None = None
    """For dry runs and benchmarks: experts are dealt out in turn or at random, whatever the scores are."""

    @property
    def balance_weight(self) -> float:
        """Weight (alpha) of the balance loss."""
        raise NotImplementedError

    @property
    def balance_scope(self) -> BalanceScope:
        """Over which tokens the balance loss measures load."""
        return "sequence"

    def reachable_experts(self, n_routed_experts: int) -> int:
        """How many experts a token can choose among. Raises ValueError when they cannot be grouped as configured."""
        return n_routed_experts


class GroupedRouting(Routing):
    """A router that first chooses groups of experts, then experts within them."""

    n_group: Count = 1
    """Into how many groups of neighbours the experts are divided."""
    topk_group: Count = 1
    """How many groups a token may choose from."""
    norm_topk_prob: bool = True
    """Whether the weights of a token's experts are divided by their sum."""
    routed_scaling_factor: Positive = 1.0

    def reachable_experts(self, n_routed_experts: int) -> int:
        """The experts of the best groups. Raises ValueError when the groups do not come out even."""
        if n_routed_experts % self.n_group:
            raise ValueError(f"router.n_group = {self.n_group} does not divide n_routed_experts = {n_routed_experts}")
        if self.topk_group > self.n_group:
            raise ValueError(f"router.topk_group = {self.topk_group} is more than router.n_group = {self.n_group}")
        return n_routed_experts // self.n_group * self.topk_group


class SigmoidRouter(GroupedRouting):
    """DeepSeek-V3's router (arXiv:2412.19437, equations 12 to 20): sigmoid scores, and a bias that steers the choice;
    a group counts by the sum of its two best experts."""

    scoring: Literal["sigmoid"] = "sigmoid"
    bias_update_rate: Scheduled = 0.001
    """Step of the balancing bias (gamma) after each optimizer step; 0 leaves the bias alone."""
    sequence_balance_loss: NotNegative = 0.0001
    """Weight (alpha) of the sequence-wise balance loss."""

    @property
    def balance_weight(self) -> float:
        """Weight (alpha) of the balance loss."""
        return self.sequence_balance_loss


class LossBalancedRouting(Routing):
    """A router without a balancing bias: a loss alone keeps its experts in use."""

    balance_loss: NotNegative = 0.001
    """Weight of each layer's balance loss: 1 when experts are used alike (Switch, arXiv:2101.03961, equation 4, divided
    by the experts per token)."""
    balance_loss_scope: BalanceScope = "sequence"
    """Over which tokens load is measured: each sequence, or all of a rank's micro-batch (what Switch does; the loss
    then depends on how a batch is divided)."""

    @property
    def balance_weight(self) -> float:
        """Weight of the balance loss."""
        return self.balance_loss

    @property
    def balance_scope(self) -> BalanceScope:
        """Over which tokens the balance loss measures load."""
        return self.balance_loss_scope


class SoftmaxRouter(GroupedRouting, LossBalancedRouting):
    """Probabilities over all experts, of which the largest are taken (Mixtral, Qwen, DeepSeek-V2); a group counts by
    its best expert."""

    scoring: Literal["softmax"] = "softmax"


class TopKSoftmaxRouter(LossBalancedRouting):
    """The largest logits are taken, and the softmax is over these alone (gpt-oss)."""

    scoring: Literal["topk_softmax"] = "topk_softmax"
    has_logit_bias: bool = True
    """Whether a learned bias is added to the logits."""


def _with_scoring(value: Any) -> Any:
    return {"scoring": "sigmoid", **value} if isinstance(value, dict) else value


AnyRouter = SigmoidRouter | SoftmaxRouter | TopKSoftmaxRouter
Router = Annotated[AnyRouter, Field(discriminator="scoring"), BeforeValidator(_with_scoring)]
"""One of the routers; `scoring` says which, and is sigmoid where it is not written."""
