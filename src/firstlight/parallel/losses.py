"""From the sums of each rank to the losses of the global batch.

Shapes: k depths of prediction after the next token, m mixture layers of the whole model, e experts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from firstlight.base.report import LossReport
from firstlight.config.model import ModelConfig, MoeFeedForward
from firstlight.config.schedule import Now, unscheduled
from firstlight.layout.mesh import Layout
from firstlight.models.balancing import BiasBalancing, max_violation
from firstlight.models.decoder import LossSums
from firstlight.models.moe import mixture_names
from firstlight.models.places import mask_ahead
from firstlight.parallel.device import mark
from firstlight.parallel.group import sum_over_ranks
from firstlight.parallel.last_step import LastStep
from firstlight.parallel.rows import Rows


@dataclass(frozen=True, kw_only=True)
class RankSums:
    """Sums over the ranks of `layout`, in which what several ranks have alike counts once."""

    layout: Layout
    over_ranks: Callable[[Tensor], Tensor] = sum_over_ranks
    last: LastStep = field(default_factory=LastStep)
    """Where the sums of a step are left."""

    def of_rows(self, counts: Tensor) -> Tensor:
        """Of what is counted in whole rows: the ranks that read the same ones count the same."""
        return self.over_ranks(counts) / self.layout.readers

    def of_losses(self, sums: LossSums) -> LossSums:
        """Of what micro-batches gave, in fp64 with one collective. A tensor group has one loss; a context group a part
        of it on each rank, but one balance loss and load; a stage has its own loads, and only the last one losses."""
        own = LossSums(*(part.double() for part in sums))
        whole = own._replace(
            **{name: getattr(own, name) / self.layout.cp for name in ("balance", "router_z", "load_me")}
        )
        flat = self.over_ranks(torch.cat([part.flatten() for part in whole])) / self.layout.tp
        parts = flat.split([part.numel() for part in whole])
        total = LossSums(*(part.view(one.shape) for part, one in zip(parts, whole, strict=True)))
        return total._replace(load_me=total.load_me.round())


@dataclass(frozen=True, kw_only=True)
class Normalizers:
    """What the loss sums of a global batch are divided by: unmasked targets of each kind, and sequences;
    and the weights of its parts `now`. What gradients come from is multiplied by `loss_scale`."""

    lm: float
    mtp: Tensor
    sequences: float
    now: Now = unscheduled
    loss_scale: float = 1.0
    own_lm: Tensor | None = None
    """Unmasked targets of the next token in this rank's rows alone."""

    @classmethod
    def of(
        cls, rows: Rows, sums: RankSums, *, depths: int, now: Now = unscheduled, loss_scale: float = 1.0
    ) -> "Normalizers":
        """Counted over all ranks. Depth k of multi-token prediction has no target for the last k positions."""
        masks = [mask_ahead(rows.mask, rows.begins, depth) for depth in range(depths + 1)]
        counts = [mask.sum(dtype=torch.float64) for mask in masks]
        sequences = torch.tensor(float(rows.tokens.shape[0]), dtype=torch.float64, device=rows.mask.device)
        totals = sums.of_rows(torch.stack([*counts, sequences])).clamp(min=1)
        return cls(
            lm=float(totals[0]),
            mtp=totals[1:-1],
            sequences=float(totals[-1]),
            now=now,
            loss_scale=loss_scale,
            own_lm=counts[0],
        )

    def scaled(self, loss: Tensor) -> Tensor:
        """`loss` as the backward pass begins with it."""
        return loss if self.loss_scale == 1 else loss * self.loss_scale


def weigh(sums: LossSums, normalizers: Normalizers, config: ModelConfig) -> Tensor:
    """The training loss: mean next-token loss, plus lambda times the mean over depths of theirs, plus alpha times the
    balance loss summed over layers, plus the z-losses of head and routers times their weights. Each mean is over the
    targets that exist (as Megatron-LM; the paper divides depth k by the whole length)."""
    total = sums.lm / normalizers.lm
    if config.z_loss:
        total = total + config.z_loss * sums.z / normalizers.lm
    if config.multi_token_prediction is not None:
        by_depth = sums.mtp / normalizers.mtp.to(sums.mtp.dtype)
        total = total + normalizers.now(config.multi_token_prediction.loss_weight) * by_depth.mean()
    return total + weigh_routers(sums.balance, sums.router_z, normalizers, config)


def weigh_routers(balance: Tensor, router_z: Tensor, normalizers: Normalizers, config: ModelConfig) -> Tensor:
    """The part of the training loss that comes from the routers' losses, summed over sequences and layers."""
    if not isinstance(config.feed_forward, MoeFeedForward):
        return torch.zeros_like(balance)
    router = config.feed_forward.router
    total = router.balance_weight * balance / normalizers.sequences
    return total + router.z_loss * router_z / normalizers.sequences if router.z_loss else total


def report(
    local: LossSums, normalizers: Normalizers, sums: RankSums, balancing: BiasBalancing, config: ModelConfig
) -> LossReport:
    """The true losses of the global batch, on every rank, with one collective and one copy to the host.

    `local` has a row of loads for each mixture layer of the whole model; the balancing is shown those of its routers.
    """
    before = mark(local.lm.device)
    total_sums = sums.of_losses(local)
    sums.last.summing = before, mark(local.lm.device)
    sums.last.own_lm, sums.last.own_targets = local.lm, normalizers.own_lm
    total = weigh(total_sums, normalizers, config)
    parts = {"lm": float(total_sums.lm) / normalizers.lm}
    if total_sums.mtp.numel():
        parts["mtp"] = float((total_sums.mtp / normalizers.mtp).mean())
    if config.z_loss:
        parts["z"] = float(total_sums.z) / normalizers.lm
    violation: list[float] = []
    names = mixture_names(config)
    if names:
        parts["balance"] = float(total_sums.balance) / (normalizers.sequences * len(names))
        if isinstance(config.feed_forward, MoeFeedForward) and config.feed_forward.router.z_loss:
            parts["router_z"] = float(total_sums.router_z) / (normalizers.sequences * len(names))
        violation = max_violation(total_sums.load_me).tolist()
        sums.last.load_me = total_sums.load_me
        balancing.observe(total_sums.load_me[[names.index(name) for name in balancing.layer_names]])
    return LossReport(
        total=float(total),
        parts=parts,
        tokens=int(normalizers.lm),
        expert_load=dict(zip(names, violation, strict=True)),
    )
