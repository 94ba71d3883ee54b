"""The engine that walks a step's micro-batches on one copy of the model and leaves summed gradients in place."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from firstlight.base.report import LossReport
from firstlight.config.model import Attention
from firstlight.config.schedule import Now, unscheduled
from firstlight.models.balancing import BiasBalancing
from firstlight.models.decoder import Decoder, LossSums
from firstlight.parallel.arithmetic import AS_KEPT, Arithmetic
from firstlight.parallel.attention_logits import AttentionLogits
from firstlight.parallel.gradients import gradient_sum
from firstlight.parallel.losses import Normalizers, RankSums, report, weigh
from firstlight.parallel.rows import HostBatch, Rows


class Engine(Protocol):
    """What training asks of a model that is laid out over ranks. Both calls are collectives."""

    def forward_backward(self, batch: HostBatch) -> LossReport:
        """Leave gradients of the mean loss of the global batch, of which `batch` is this rank's part."""

    def evaluate(self, batch: HostBatch) -> tuple[float, float]:
        """This rank's share of the summed next-token losses and of the unmasked tokens; all shares are the whole."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """How an engine works: sequences of a micro-batch, in which types it computes, sums over the ranks, and who is
    shown how evenly experts are used; what weights of losses, and their scale, are for the step to come; and the
    attention logits, where they are measured."""

    micro_batch_size: int
    arithmetic: Arithmetic = AS_KEPT
    sums: RankSums
    balancing: BiasBalancing
    now: Now = unscheduled
    loss_scale: Callable[[], float] = lambda: 1.0
    """By what gradients are multiplied."""
    logits: AttentionLogits | None = None
    attentions: tuple[Attention, ...] = ()
    """Of each phase of the run; none: the model's own throughout."""

    def enter(self, phase: int, *models: Decoder) -> None:
        """Let the models attend as in `phase`."""
        for model in models if self.attentions else ():
            model.attend_as(self.attentions[phase])

    def normalizers(self, rows: Rows, *, depths: int) -> Normalizers:
        """Of a global batch, for the step to come."""
        return Normalizers.of(rows, self.sums, depths=depths, now=self.now, loss_scale=self.loss_scale())

    def watched(self, step: LossReport) -> LossReport:
        """The report of a step, with its attention logits. Collective."""
        return step if self.logits is None else replace(step, attention_logits=self.logits.measure())

    def unwatched(self) -> AbstractContextManager[None]:
        """Attention logits inside of the block are no one's."""
        return nullcontext() if self.logits is None else self.logits.paused()


class PlainEngine:
    """Forward and backward without pipelining, with or without sharded parameters."""

    def __init__(self, model: Decoder, work: Work) -> None:
        self._model = model
        self._work = work
        self._gradients = gradient_sum(model, work.sums.layout.sharded)
        self._device = next(model.parameters()).device

    def forward_backward(self, batch: HostBatch) -> LossReport:
        """See Engine."""
        config = self._model.config
        self._work.enter(batch.phase, self._model)
        rows = Rows.of(batch, self._device)
        normalizers = self._work.normalizers(rows, depths=config.num_mtp_layers)
        micro_batches = rows.micro_batches(self._work.micro_batch_size)
        count = batch.num_micro_batches or len(micro_batches)
        sums: list[LossSums] = []
        for index in range(count):
            self._gradients.before(index, count)
            counts = index < len(micro_batches)
            with nullcontext() if counts else self._work.unwatched():
                out = self._forward(micro_batches[index] if counts else rows.filler())
            loss = normalizers.scaled(weigh(out, normalizers, config))
            # A filler keeps step in the collectives; its balance loss and loads must not count either.
            (loss if counts else 0 * loss).backward()
            self._gradients.after(index, count)
            sums.append(LossSums(*(part.detach() if counts else torch.zeros_like(part) for part in out)))
        work = self._work
        return work.watched(report(added(sums), normalizers, work.sums, work.balancing, config))

    @torch.no_grad()
    def evaluate(self, batch: HostBatch) -> tuple[float, float]:
        """See Engine."""
        self._work.enter(batch.phase, self._model)
        rows, layout = Rows.of(batch, self._device), self._work.sums.layout
        parts = rows.micro_batches(self._work.micro_batch_size)
        lm = sum(float(self._forward(part, predicts_ahead=False).lm) for part in parts)
        self._gradients.rest()
        return lm / layout.tp, float(rows.mask.sum()) / layout.readers

    def _forward(self, rows: Rows, *, predicts_ahead: bool = True) -> LossSums:
        dtype = self._work.arithmetic.product_dtype
        with torch.autocast(rows.tokens.device.type, dtype, enabled=dtype is not None):
            out: LossSums = self._model(rows.tokens, rows.labels, rows.mask, rows.begins, predicts_ahead=predicts_ahead)
        return out


def added(sums: list[LossSums]) -> LossSums:
    """The sums of micro-batches, added in fp64."""
    return LossSums(*(torch.stack([part.double() for part in parts]).sum(0) for parts in zip(*sums, strict=True)))
