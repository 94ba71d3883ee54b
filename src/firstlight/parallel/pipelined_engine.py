"""The engine that takes micro-batches through the stages of a pipeline, by torch's schedules."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    PipelineScheduleSingle,
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
    ScheduleZBVZeroBubble,
    _Action,
    _ComputationType,
    _PipelineScheduleRuntime,
)

from firstlight.base.report import LossReport
from firstlight.config.pipeline import V_SHAPED, ScheduleName
from firstlight.models.decoder import Decoder, LossSums
from firstlight.models.places import Inputs
from firstlight.parallel.apply import LaidOut
from firstlight.parallel.copied import CopiedGradients
from firstlight.parallel.embedding_copy import EmbeddingCopy
from firstlight.parallel.engine import Work, added
from firstlight.parallel.gradients import reshard
from firstlight.parallel.last_step import BusyClock
from firstlight.parallel.losses import report
from firstlight.parallel.rows import HostBatch, Rows
from firstlight.parallel.stage import StageRun
from firstlight.parallel.timed_stage import TimedStage

Schedule = PipelineScheduleSingle | _PipelineScheduleRuntime

_ONE_STAGE: Mapping[ScheduleName, type[PipelineScheduleSingle]] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
_SOME_STAGES: Mapping[ScheduleName, type[_PipelineScheduleRuntime]] = {
    "interleaved_1f1b": ScheduleInterleaved1F1B,
    "looped_bfs": ScheduleLoopedBFS,
    "interleaved_zero_bubble": ScheduleInterleavedZeroBubble,
    "zbv_zero_bubble": ScheduleZBVZeroBubble,
    "dualpipe_v": ScheduleDualPipeV,
}
_FORWARD = frozenset(
    {
        _ComputationType.FORWARD,
        _ComputationType.SEND_F,
        _ComputationType.RECV_F,
        _ComputationType.UNSHARD,
        _ComputationType.RESHARD,
    }
)


class PipelinedEngine:
    """Forward and backward through a pipeline. Every rank has all the micro-batches and takes its stages' part."""

    def __init__(self, model: LaidOut, schedule: ScheduleName, work: Work) -> None:
        assert model.pipeline_group is not None, "a model in stages"
        self._model = model
        self._schedule_name = schedule
        self._work = work
        self._device = next(model.stages[0].parameters()).device
        self._runs = [StageRun(stage, work.arithmetic.product_dtype) for stage in model.stages]
        self._embedding = EmbeddingCopy(model.stages, model.pipeline_group, is_v_shaped=schedule in V_SHAPED)
        self._copied = [CopiedGradients(stage) for stage in model.stages]
        self._schedules: dict[tuple[bool, int, *tuple[int, ...]], Schedule] = {}
        self._config = model.stages[0].config
        self._clock = work.sums.last.clock = BusyClock(device=self._device)

    def forward_backward(self, batch: HostBatch) -> LossReport:
        """See Engine."""
        self._work.enter(batch.phase, *self._model.stages)
        rows = Rows.of(batch, self._device)
        normalizers = self._work.normalizers(rows, depths=self._config.num_mtp_layers)
        inputs = self._inputs(rows, predicts_ahead=True)
        for run in self._runs:
            run.begin(inputs, normalizers)
        self._embedding.refresh()
        tokens = torch.cat([one.tokens_bs for one in inputs])
        schedule = self._schedule(inputs, is_trained=True)
        with self._clock.step():
            schedule.step(*self._arguments(tokens), target=tokens, return_outputs=False)
        for copied in self._copied:
            copied.sum()
        self._embedding.return_gradient()
        work = self._work
        return work.watched(report(self._measured(), normalizers, work.sums, work.balancing, self._config))

    @torch.no_grad()
    def evaluate(self, batch: HostBatch) -> tuple[float, float]:
        """See Engine."""
        self._work.enter(batch.phase, *self._model.stages)
        rows, layout = Rows.of(batch, self._device), self._work.sums.layout
        inputs = self._inputs(rows, predicts_ahead=False)
        for run in self._runs:
            run.begin(inputs, None)
        if self._config.tie_word_embeddings:
            self._embedding.refresh()
        tokens = torch.cat([one.tokens_bs for one in inputs])
        self._schedule(inputs, is_trained=False).eval(*self._arguments(tokens), target=tokens, return_outputs=False)
        for stage in self._model.stages:
            reshard(stage.modules())
        return float(self._measured().lm) / layout.tp, float(rows.mask.sum()) / layout.readers

    def _inputs(self, rows: Rows, *, predicts_ahead: bool) -> list[Inputs]:
        read = self._model.stages[0].inputs
        return [
            read(part.tokens, part.labels, part.mask, part.begins, predicts_ahead=predicts_ahead)
            for part in rows.micro_batches(self._work.micro_batch_size)
        ]

    def _arguments(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """What a schedule cuts into micro-batches for the first stage."""
        return (tokens,) if self._model.stages[0].stage.is_first else ()

    def _measured(self) -> LossSums:
        """Over the micro-batches and the stages of this rank."""
        return added([sums for run in self._runs for sums in run.sums])

    def _schedule(self, inputs: list[Inputs], *, is_trained: bool) -> Schedule:
        """The schedule for so many micro-batches of such a shape; stages know the shapes that they receive."""
        key = (is_trained, len(inputs), *inputs[0].tokens_bs.shape)
        if key not in self._schedules:
            schedule = self._build_schedule(len(inputs), inputs[0])
            if not is_trained and isinstance(schedule, _PipelineScheduleRuntime):
                _leave_out_backward(schedule)
            self._schedules[key] = schedule
        return self._schedules[key]

    def _build_schedule(self, count: int, inputs: Inputs) -> Schedule:
        stages, name = [self._stage(stage, inputs) for stage in self._model.stages], self._schedule_name
        if name in _ONE_STAGE:
            (stage,) = stages
            return _ONE_STAGE[name](stage, count, loss_fn=_the_loss, scale_grads=False)
        return _SOME_STAGES[name](list(stages), count, loss_fn=_the_loss, scale_grads=False)

    def _stage(self, stage: Decoder, inputs: Inputs) -> PipelineStage:
        """With the shapes that it receives and sends: torch would ask its neighbours, by pickled objects."""
        dtype = next(stage.parameters()).dtype
        length = inputs.tokens_bs.shape[1] // self._work.sums.layout.tp
        shape = (inputs.tokens_bs.shape[0], length, self._config.hidden_size)
        stream_dtype = self._work.arithmetic.parameter_dtype or dtype
        stream = torch.empty(shape, dtype=stream_dtype, device="meta", requires_grad=True)
        tokens = torch.empty(inputs.tokens_bs.shape, dtype=torch.int64, device="meta")
        loss = torch.empty((), dtype=dtype, device="meta", requires_grad=True)
        timed = TimedStage(
            stage,
            stage.stage.index,
            stage.stage.count,
            self._device,
            input_args=tokens if stage.stage.is_first else stream,
            output_args=loss if stage.stage.is_last else stream,
            group=self._model.pipeline_group,
            dw_builder=None if self._model.weight_gradients is None else self._model.weight_gradients.take,
        )
        timed.clock = self._clock
        return timed


def _leave_out_backward(schedule: _PipelineScheduleRuntime) -> None:
    """torch's own evaluation (2.13) walks through the backward steps too, and a stage that hands gradients to another
    one on the same rank fails there."""
    schedule.pipeline_order_with_comms = {
        rank: [part for action in actions for part in _forward_parts(action)]
        for rank, actions in schedule.pipeline_order_with_comms.items()
    }


def _forward_parts(action: _Action) -> list[_Action]:
    """`action` where it is one of a forward pass; of two that overlap, the one that is."""
    parts = action.sub_actions or (action,)
    return [part for part in parts if part.computation_type in _FORWARD]


def _the_loss(loss: Tensor, _target: Tensor) -> Tensor:
    """The last stage gives the loss itself."""
    return loss
