"""Bytes that a rank holds between steps and between micro-batches, and what it gathers of the model at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from firstlight.config.model import ModelConfig
from firstlight.layout.communication import sharding_units
from firstlight.layout.mesh import Layout
from firstlight.layout.parameters import elements_of_rank
from firstlight.layout.stages import Stage, whole_model

_MOMENTS = 2
"""AdamW's, in the type of the parameters."""


@dataclass(frozen=True, kw_only=True)
class RankState:
    """Bytes of a rank's shards."""

    parameters: int
    """With those of the embedding's copy, if the rank has one."""
    gradients: int
    moments: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.moments


def state_of_rank(
    model: ModelConfig, layout: Layout, rank: int, stages: Sequence[Stage] = (), *, number_bytes: int = 4
) -> RankState:
    """Of `rank`, whose `stages` of the pipeline are these; none: the whole model. Its gradients are there between
    backward pass and update."""
    elements = elements_of_rank(model, layout, rank, stages)
    own = elements.own * number_bytes
    return RankState(parameters=own + elements.copied * number_bytes, gradients=own, moments=_MOMENTS * own)


def whole_between_micro_batches(
    model: ModelConfig,
    layout: Layout,
    stages: Sequence[Stage] = (),
    *,
    number_bytes: int = 4,
    sum_bytes: int = 4,
) -> int:
    """Bytes of what is whole on a rank from one micro-batch to the next though it is sharded: parameters that stay
    gathered, and sums of gradients that are not reduced before the last micro-batch. A stage of a pipeline keeps both
    after a backward pass."""
    parameters = number_bytes if layout.pp > 1 or layout.sharded != "all" else 0
    sums = sum_bytes if layout.pp > 1 or layout.sharded == "optimizer" else 0
    return sum(_gathered_elements(model, layout, stages)) * (parameters + sums)


def largest_gathered_unit(
    model: ModelConfig, layout: Layout, stages: Sequence[Stage] = (), *, number_bytes: int = 4
) -> int:
    """Bytes of the largest part of the model that FSDP gathers in one call; two such parts are there at once while the
    next one comes. 0 where nothing is sharded."""
    return max(_gathered_elements(model, layout, stages), default=0) * number_bytes


def _gathered_elements(model: ModelConfig, layout: Layout, stages: Sequence[Stage]) -> list[int]:
    """Of each unit that is sharded."""
    units = [unit for stage in stages or [whole_model(model)] for unit in sharding_units(model, layout, stage).values()]
    return [
        sum(block.padded_rows * block.shards * block.row_size for block in blocks)
        for blocks in units
        if blocks[0].shards > 1
    ]
