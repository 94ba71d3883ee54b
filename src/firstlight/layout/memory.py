"""Bytes that a rank holds between steps, and what it gathers of the model at once."""

from dataclasses import dataclass

from firstlight.config.model import ModelConfig
from firstlight.layout.communication import sharding_units
from firstlight.layout.mesh import Layout
from firstlight.layout.parameters import elements_of_rank

_MOMENTS = 2
"""AdamW's, in the type of the parameters."""


@dataclass(frozen=True, kw_only=True)
class RankState:
    """Bytes of a rank's shards."""

    parameters: int
    gradients: int
    moments: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.moments


def state_of_rank(model: ModelConfig, layout: Layout, rank: int, *, number_bytes: int = 4) -> RankState:
    """Of `rank`; its gradients are there between backward pass and update."""
    size = elements_of_rank(model, layout, rank) * number_bytes
    return RankState(parameters=size, gradients=size, moments=_MOMENTS * size)


def largest_gathered_unit(model: ModelConfig, layout: Layout, *, number_bytes: int = 4) -> int:
    """Bytes of the largest part of the model that FSDP gathers in one call; two such parts are there at once while the
    next one comes. 0 where nothing is sharded."""
    sizes = (
        sum(block.padded_rows * block.shards * block.row_size for block in blocks)
        for blocks in sharding_units(model, layout).values()
        if blocks[0].shards > 1
    )
    return max(sizes, default=0) * number_bytes
