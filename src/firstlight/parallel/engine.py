"""The engine that walks a step's micro-batches on one copy of the model and leaves summed gradients in place.

Shapes: r rows of this rank, s sequence, m mixture layers, e experts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from firstlight.base.report import LossReport
from firstlight.config.model import ModelConfig, MoeFeedForward
from firstlight.config.training import Sharded
from firstlight.models.balancing import BiasBalancing, max_violation
from firstlight.models.decoder import Decoder, LossSums
from firstlight.models.places import mask_ahead
from firstlight.parallel.gradients import gradient_sum


class HostBatch(Protocol):
    """This rank's rows as the data room gives them: tokens and labels int32 [r, s], loss_mask float32 [r, s]."""

    @property
    def tokens(self) -> NDArray[Any]: ...

    @property
    def labels(self) -> NDArray[Any]: ...

    @property
    def loss_mask(self) -> NDArray[Any]: ...

    @property
    def begins(self) -> NDArray[Any] | None:
        """Where documents begin, bool [r, s], when they stand for themselves."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The same rows on the device, tokens and labels as int64."""

    tokens: Tensor
    labels: Tensor
    mask: Tensor
    begins: Tensor | None

    @classmethod
    def of(cls, batch: HostBatch, device: torch.device) -> "Rows":
        """Copy to `device`."""
        tokens, labels, mask = (
            torch.from_numpy(array).to(device, non_blocking=True)
            for array in (batch.tokens, batch.labels, batch.loss_mask)
        )
        begins = None if batch.begins is None else torch.from_numpy(batch.begins).to(device, non_blocking=True)
        return cls(tokens=tokens.long(), labels=labels.long(), mask=mask, begins=begins)

    def micro_batches(self, size: int) -> list["Rows"]:
        """Consecutive groups of `size` rows."""
        tokens, labels, masks = self.tokens.split(size), self.labels.split(size), self.mask.split(size)
        begins = [None] * len(tokens) if self.begins is None else self.begins.split(size)
        return [
            Rows(tokens=one, labels=label, mask=mask, begins=begin)
            for one, label, mask, begin in zip(tokens, labels, masks, begins, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Normalizers:
    """What the loss sums of a global batch are divided by: unmasked targets of each kind, and sequences."""

    lm: float
    mtp: Tensor
    sequences: float

    @classmethod
    def of(cls, rows: Rows, *, depths: int, sum_over_ranks: Callable[[Tensor], Tensor]) -> "Normalizers":
        """Counted over all ranks. Depth k of multi-token prediction has no target for the last k positions."""
        masks = [mask_ahead(rows.mask, rows.begins, depth) for depth in range(depths + 1)]
        counts = [mask.sum(dtype=torch.float64) for mask in masks]
        sequences = torch.tensor(float(rows.tokens.shape[0]), dtype=torch.float64, device=rows.mask.device)
        totals = sum_over_ranks(torch.stack([*counts, sequences])).clamp(min=1)
        return cls(lm=float(totals[0]), mtp=totals[1:-1], sequences=float(totals[-1]))


class PlainEngine:
    """Forward and backward without pipelining, with or without sharded parameters."""

    def __init__(
        self,
        model: Decoder,
        *,
        micro_batch_size: int,
        autocast_dtype: torch.dtype | None,
        sum_over_ranks: Callable[[Tensor], Tensor],
        balancing: BiasBalancing,
        sharded: Sharded = "all",
    ) -> None:
        self._model = model
        self._micro_batch_size = micro_batch_size
        self._autocast_dtype = autocast_dtype
        self._sum_over_ranks = sum_over_ranks
        self._balancing = balancing
        self._gradients = gradient_sum(model, sharded)
        self._device = next(model.parameters()).device

    def forward_backward(self, batch: HostBatch) -> LossReport:
        """Gradients of the mean loss of the global batch, of which `batch` is this rank's part."""
        config = self._model.config
        rows = Rows.of(batch, self._device)
        normalizers = Normalizers.of(rows, depths=len(self._model.mtp), sum_over_ranks=self._sum_over_ranks)
        micro_batches = rows.micro_batches(self._micro_batch_size)
        sums: list[LossSums] = []
        for index, micro_batch in enumerate(micro_batches):
            self._gradients.before(index, len(micro_batches))
            out = self._forward(micro_batch)
            weigh(out, normalizers, config).backward()
            self._gradients.after(index, len(micro_batches))
            sums.append(LossSums(*(part.detach() for part in out)))
        return self._report(sums, normalizers)

    @torch.no_grad()
    def evaluate(self, batch: HostBatch) -> tuple[float, float]:
        """Sum of the next-token losses and number of unmasked tokens of `batch`, on this rank alone."""
        rows = Rows.of(batch, self._device)
        parts = rows.micro_batches(self._micro_batch_size)
        lm = sum(float(self._forward(part, predicts_ahead=False).lm) for part in parts)
        self._gradients.rest()
        return lm, float(rows.mask.sum())

    def _forward(self, rows: Rows, *, predicts_ahead: bool = True) -> LossSums:
        with torch.autocast(rows.tokens.device.type, self._autocast_dtype, enabled=self._autocast_dtype is not None):
            out: LossSums = self._model(rows.tokens, rows.labels, rows.mask, rows.begins, predicts_ahead=predicts_ahead)
        return out

    def _report(self, sums: list[LossSums], normalizers: Normalizers) -> LossReport:
        """The true losses of the global batch, on every rank, with one collective and one copy to the host."""
        local = [torch.stack([part.double() for part in parts]).sum(0) for parts in zip(*sums, strict=True)]
        lm, mtp, balance, load = local
        flat = self._sum_over_ranks(torch.cat((lm.view(1), mtp, balance.view(1), load.flatten())))
        depths, layers = mtp.numel(), load.shape[0]
        total_sums = LossSums(flat[0], flat[1 : 1 + depths], flat[1 + depths], flat[2 + depths :].view(load.shape))
        total = weigh(total_sums, normalizers, self._model.config)
        parts = {"lm": float(total_sums.lm) / normalizers.lm}
        if depths:
            parts["mtp"] = float((total_sums.mtp / normalizers.mtp).mean())
        violation: list[float] = []
        if layers:
            parts["balance"] = float(total_sums.balance) / (normalizers.sequences * layers)
            violation = max_violation(total_sums.load_me).tolist()
            self._balancing.observe(total_sums.load_me)
        return LossReport(
            total=float(total),
            parts=parts,
            tokens=int(normalizers.lm),
            expert_load=dict(zip(self._balancing.layer_names, violation, strict=True)),
        )


def weigh(sums: LossSums, normalizers: Normalizers, config: ModelConfig) -> Tensor:
    """The training loss: mean next-token loss, plus lambda times the mean over depths of theirs, plus alpha times the
    balance loss summed over layers. Each mean is over the targets that exist (as Megatron-LM; the paper divides
    depth k by the whole length)."""
    total = sums.lm / normalizers.lm
    if config.multi_token_prediction is not None:
        by_depth = sums.mtp / normalizers.mtp.to(sums.mtp.dtype)
        total = total + config.multi_token_prediction.loss_weight * by_depth.mean()
    if isinstance(config.feed_forward, MoeFeedForward):
        alpha = config.feed_forward.router.balance_weight
        total = total + alpha * sums.balance / normalizers.sequences
    return total
