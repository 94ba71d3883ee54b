"""Bytes that a rank holds between steps and between micro-batches, and what it gathers of the model at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from firstlight.config.averages import AveragesConfig
from firstlight.config.model import ModelConfig, MoeFeedForward
from firstlight.config.optimizer import OptimizerSection
from firstlight.config.router import SigmoidRouter
from firstlight.layout.communication import sharding_units
from firstlight.layout.mesh import Layout
from firstlight.layout.parameters import elements_of_rank, own_elements
from firstlight.layout.stages import Stage, whole_model

_BF16_BYTES = 2
_BIAS_BYTES = 4
"""Of a number of a router's balancing bias, which is fp32 always."""


@dataclass(frozen=True, kw_only=True)
class RankState:
    """Bytes of a rank's shards."""

    parameters: int
    """With those of the embedding's copy, if the rank has one."""
    gradients: int
    moments: int
    averages: int = 0
    """Of weights, always in host memory; on an accelerator a moving average has as much again for what is on its
    way."""

    @property
    def total(self) -> int:
        """Of the device, unless `offload.optimizer_state` moves the moments."""
        return self.parameters + self.gradients + self.moments


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of each number of a parameter beside itself: moments of an optimizer, and averages."""

    optimizer: OptimizerSection
    averages: AveragesConfig = AveragesConfig()


def state_of_rank(
    model: ModelConfig, layout: Layout, rank: int, stages: Sequence[Stage] = (), *, kept: Kept, number_bytes: int = 4
) -> RankState:
    """Of `rank`, whose `stages` of the pipeline are these; none: the whole model. Its gradients are there between
    backward pass and update."""
    elements = elements_of_rank(model, layout, rank, stages)
    own = elements.own * number_bytes
    optimizer, averages = kept.optimizer, kept.averages
    moment_bytes = _BF16_BYTES if optimizer.moments == "bf16" else number_bytes
    moments = sum(
        size * len(optimizer.moments_of(parameter.name, parameter.shape))
        for parameter, size in own_elements(model, layout, rank, stages)
    )
    biases = _bias_bytes(model, stages) if averages.ema is not None else 0
    num_averages = (averages.ema is not None) + (averages.pma is not None)
    return RankState(
        parameters=own + elements.copied * number_bytes,
        gradients=own,
        moments=moments * moment_bytes,
        averages=num_averages * own + biases,
    )


def _bias_bytes(model: ModelConfig, stages: Sequence[Stage]) -> int:
    """Of the balancing biases of the layers of `stages`, which every rank has whole."""
    feed_forward = model.feed_forward
    if not isinstance(feed_forward, MoeFeedForward) or not isinstance(feed_forward.router, SigmoidRouter):
        return 0
    here = stages or [whole_model(model)]
    layers = [layer for stage in here for layer in stage.layers]
    if any(stage.is_last for stage in here):
        layers += range(model.num_hidden_layers, model.num_hidden_layers + model.num_mtp_layers)
    return sum(model.is_moe_layer(layer) for layer in layers) * feed_forward.n_routed_experts * _BIAS_BYTES


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
    return sum(gathered_elements(model, layout, stages)) * (parameters + sums)


def largest_gathered_unit(
    model: ModelConfig, layout: Layout, stages: Sequence[Stage] = (), *, number_bytes: int = 4
) -> int:
    """Bytes of the largest part of the model that FSDP gathers in one call; two such parts are there at once while the
    next one comes. 0 where nothing is sharded."""
    return max(gathered_elements(model, layout, stages), default=0) * number_bytes


def gathered_elements(model: ModelConfig, layout: Layout, stages: Sequence[Stage]) -> list[int]:
    """Of each unit that is sharded."""
    units = [unit for stage in stages or [whole_model(model)] for unit in sharding_units(model, layout, stage).values()]
    return [
        sum(block.padded_rows * block.shards * block.row_size for block in blocks)
        for blocks in units
        if blocks[0].shards > 1
    ]
