"""Bytes that a rank holds between steps, and what it gathers of the model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, kw_only=True)
class Units:
    """What FSDP gathers and reduces of a stage, in whole elements."""

    roots: int = 0
    """Outside of layers: embedding, head and last norm, which stay gathered from a forward to the backward pass."""
    layer: int = 0
    """The largest layer, with its experts."""
    call: int = 0
    """The most of a layer that is gathered in one call."""
    whole: int = 0
    divided: int = 0
    """Of the whole, what several ranks share."""

    def __add__(self, other: "Units") -> "Units":
        return Units(
            roots=self.roots + other.roots,
            layer=max(self.layer, other.layer),
            call=max(self.call, other.call),
            whole=self.whole + other.whole,
            divided=self.divided + other.divided,
        )

    def times(self, count: int) -> "Units":
        """Of as many alike."""
        return replace(self, roots=count * self.roots, whole=count * self.whole, divided=count * self.divided)


def units_of(model: ModelConfig, layout: Layout, stage: Stage) -> Units:
    """Of a stage."""
    layers: Counter[int | None] = Counter()
    call, divided = 0, 0
    for (layer, _), blocks in sharding_units(model, layout, stage).items():
        size = sum(block.padded_rows * block.shards * block.row_size for block in blocks)
        layers[layer] += size
        call = max(call, size if layer is not None else 0)
        divided += size if blocks[0].shards > 1 else 0
    whole, roots = layers.total(), layers.pop(None, 0)
    return Units(roots=roots, layer=max(layers.values(), default=0), call=call, whole=whole, divided=divided)
