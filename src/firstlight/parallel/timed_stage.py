"""torch's stage of a pipeline, with a clock on what it computes."""

from typing import Any

from torch.distributed.pipelining import PipelineStage

from firstlight.parallel.last_step import BusyClock


class TimedStage(PipelineStage):
    """Its passes count as busy on `clock`; what it waits for between them does not."""

    clock: BusyClock

    def forward_one_chunk(
        self,
        fwd_chunk_id: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        save_forward_output: bool = True,
    ) -> Any:
        with self.clock.busy():
            return super().forward_one_chunk(fwd_chunk_id, args, kwargs, save_forward_output)

    def backward_one_chunk(
        self,
        bwd_chunk_id: int,
        loss: Any = None,
        full_backward: bool = True,
        last_backward: bool = False,
    ) -> Any:
        with self.clock.busy():
            return super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> Any:
        with self.clock.busy():
            return super().backward_weight_one_chunk(bwd_chunk_id, last_backward)
