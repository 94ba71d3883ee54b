"""A model and its optimizer in any layout, without processes: each rank is built in turn.

Every element has a value that follows from its tensor's name and its place, so that each rank can be held to the whole.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from firstlight.checkpoint.shards import local_shard
from firstlight.config.optimizer import AdamWConfig
from firstlight.layout.mesh import Layout
from firstlight.optim.optimizer import Optimizer, Surroundings
from firstlight.parallel.apply import Keeping, build_parallel, parameter_names
from firstlight.train.state import model_tensors
from tests.unit.checkpoint.group import as_rank
from tests.unit.models.tiny_model import deepseek

LAYOUTS = [
    Layout(dp_replicate=replicas, dp_shard=shards)
    for replicas, shards in ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1))
]


def name_of(layout: Layout) -> str:
    return f"{layout.dp_replicate}x{layout.dp_shard}"


@dataclass(kw_only=True)
class LaidOut:
    """What one rank holds, and plain values; a state as the checkpointer takes it."""

    live: Mapping[str, Tensor]
    values: dict[str, Any]
    step: int

    def tensors(self) -> Mapping[str, Tensor]:
        return self.live

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def refusal(self, _state: Mapping[str, Any], /) -> str | None:
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values, self.step = dict(state), state["step"]


def whole_value(name: str, shape: tuple[int, ...], step: int) -> Tensor:
    """The whole tensor of this name after `step` steps."""
    source = torch.Generator().manual_seed(zlib.crc32(name.encode()) + step)
    return torch.randn(shape, generator=source)


def rank_state(layout: Layout, rank: int, *, step: int) -> LaidOut:
    """What `rank` of `layout` holds of the state after `step` steps."""
    with as_rank(rank, layout.world_size):
        (model,) = build_parallel(
            deepseek(multi_token_prediction={}), layout, Keeping(), device=torch.device("cpu"), seed=1
        ).stages
        around = Surroundings(
            learning_rate=lambda _: 0.1,
            sum_over_ranks=lambda tensor: tensor,
            after_update=lambda: None,
            is_fused=False,
        )
        optimizer = Optimizer(parameter_names(model), AdamWConfig(learning_rate=0.1), around)
        tensors = model_tensors(model) | {f"optimizer/{name}": tensor for name, tensor in optimizer.tensors().items()}
    state = LaidOut(live=tensors, values={"step": step, "data": {"consumed_samples": 8 * step}}, step=step)
    with torch.no_grad():
        for name, tensor in tensors.items():
            shard = local_shard(tensor, is_first_rank=False)
            shard.data.copy_(expected(name, shard.global_shape, shard.offset, shard.data.shape, step))
    return state


def expected(name: str, shape: tuple[int, ...], offset: tuple[int, ...], sizes: tuple[int, ...], step: int) -> Tensor:
    """The block of the whole tensor that begins at `offset`."""
    block = tuple(slice(begin, begin + size) for begin, size in zip(offset, sizes, strict=True))
    return whole_value(name, shape, step)[block]
