"""The orders of work by arithmetic, against those of torch.distributed.pipelining that the runtime uses."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed.pipelining import schedules as torch_schedules

from firstlight.config.pipeline import V_SHAPED, PipelineConfig, ScheduleName
from firstlight.layout.schedules import orders_of

TORCH: dict[ScheduleName, Any] = {
    "gpipe": torch_schedules.ScheduleGPipe,
    "1f1b": torch_schedules.Schedule1F1B,
    "looped_bfs": torch_schedules.ScheduleLoopedBFS,
    "interleaved_1f1b": torch_schedules.ScheduleInterleaved1F1B,
    "interleaved_zero_bubble": torch_schedules.ScheduleInterleavedZeroBubble,
    "zbv_zero_bubble": torch_schedules.ScheduleZBVZeroBubble,
    "dualpipe_v": torch_schedules.ScheduleDualPipeV,
}
CASES = [
    (name, degree, per_rank, micro_batches)
    for name in TORCH
    for degree in (2, 3, 4, 5, 8)
    for per_rank in ((2, 3) if "interleaved" in name or name == "looped_bfs" else (2,) if name in V_SHAPED else (1,))
    for micro_batches in (degree, 2 * degree, 6 * degree)
    if name != "dualpipe_v" or micro_batches >= 2 * degree
]


def by_torch(name: ScheduleName, rank: int, degree: int, per_rank: int, micro_batches: int) -> list[list[str]]:
    """Its actions without pauses and without the reduction of gradients, of a schedule that is asked for its order
    alone."""
    count = degree * per_rank
    if per_rank == 1:
        asked = SimpleNamespace(_num_stages=degree, _n_microbatches=micro_batches)
        order = TORCH[name]._get_pipeline_order(asked)[rank]
    else:
        rounds = max(1, micro_batches // degree)
        asked = SimpleNamespace(
            pp_group_size=degree,
            _n_microbatches=micro_batches,
            n_local_stages=per_rank,
            _stages=[None] * per_rank,
            num_stages=count,
            microbatches_per_round=micro_batches // rounds,
        )
        order = TORCH[name]._calculate_single_rank_operations(asked, rank)
    actions = [action for action in order if action is not None and action.computation_type.name != "REDUCE_GRAD"]
    if name == "1f1b" and rank == degree - 1:
        # torch 2.13 writes the forward passes of the last rank down from 1, and runs them from 0.
        actions = [
            action._replace(microbatch_index=action.microbatch_index - (action.computation_type.name == "FORWARD"))
            for action in actions
        ]
    return [[shown(one) for one in (action.sub_actions or (action,))] for action in actions]


def shown(action: Any) -> str:
    kind = {"FULL_BACKWARD": "B", "BACKWARD_INPUT": "I", "BACKWARD_WEIGHT": "W", "FORWARD": "F"}
    return f"{action.stage_index}{kind[action.computation_type.name]}{action.microbatch_index}"


@pytest.mark.parametrize(("name", "degree", "per_rank", "micro_batches"), CASES)
def test_orders_are_those_of_torch(name: ScheduleName, degree: int, per_rank: int, micro_batches: int) -> None:
    orders = orders_of(PipelineConfig(schedule=name, stages_per_rank=per_rank), degree, micro_batches)
    for rank, order in enumerate(orders):
        ours = [[f"{one.stage}{one.kind}{one.micro_batch}" for one in slot] for slot in order]
        assert ours == by_torch(name, rank, degree, per_rank, micro_batches), rank
