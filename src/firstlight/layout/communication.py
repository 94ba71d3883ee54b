"""The calls between ranks in one step: how many, on which axis, and how many bytes. Tests count the real ones.

A call's bytes are the larger of what a rank gives to it and takes from it. Calls over one rank are left out. It is the
arithmetic of a run without autocast; routed rows are taken to be spread evenly over the experts.
"""

from collections.abc import Iterator, Sequence

from firstlight.config.model import ModelConfig
from firstlight.config.recompute import FullRecompute, NoRecompute
from firstlight.layout.buckets import buckets
from firstlight.layout.layer_communication import layers_traffic, mixtures_of
from firstlight.layout.mesh import Layout
from firstlight.layout.parameters import (
    Block,
    Parameter,
    block_of,
    has_embedding_copy,
    parameters_of,
    parameters_of_stage,
)
from firstlight.layout.stages import Stage, whole_model
from firstlight.layout.traffic import StepShape, Traffic, calls_of, joined

_FLOAT64 = 8
_NOTHING = NoRecompute()


def step_traffic(
    model: ModelConfig,
    layout: Layout,
    step: StepShape,
    stages: Sequence[Stage] = (),
    recompute: NoRecompute | FullRecompute = _NOTHING,
) -> list[Traffic]:
    """All calls of one step, joined by purpose, of a rank that holds the first shard of everything and `stages` of the
    pipeline; none: the whole model."""
    degrees = {"world": layout.world_size, **layout.degrees()}
    here = list(stages) or [whole_model(model)]
    calls = list(_step_calls(model))
    for stage in here:
        calls += _parameter_calls(model, layout, step, stage)
        calls += _copied_gradient_calls(model, layout, step, stage)
        calls += layers_traffic(model, layout, step, stage, recompute)
    calls += _stream_calls(model, layout, step, here)
    calls += _embedding_calls(model, layout, step, here)
    return joined(call for call in calls if degrees[call.axis] > 1)


def _parameter_calls(model: ModelConfig, layout: Layout, step: StepShape, stage: Stage) -> Iterator[Traffic]:
    """FSDP: each unit is gathered before its forward and before its backward pass, the root once for both; but once a
    step unless parameters are sharded. Gradients are scattered after each micro-batch, if they are sharded in between,
    or after the last one; then they are summed over replicas.

    In a pipeline what was gathered for a backward pass stays until the next forward pass, which so ends each row of
    forward passes after the first with one gather less: whatever the schedule, one for each and one more. Gradients
    wait for the last micro-batch.
    """
    is_pipelined = layout.pp > 1
    for (layer, are_experts), blocks in sharding_units(model, layout, stage).items():
        axis = "edp" if are_experts else "shard"
        what = "experts" if are_experts else "parameters"
        padded = sum(block.padded_rows * block.row_size for block in blocks)
        whole = padded * blocks[0].shards
        gathers = _gathers(layout, step, is_root=layer is None)
        scatters = 1 if layout.sharded == "optimizer" or is_pipelined else step.micro_batches
        yield calls_of(f"{what} gathered", "all_gather", axis, gathers, whole * step.number_bytes)
        yield calls_of(f"gradients of {what}", "reduce_scatter", axis, scatters, whole * step.sum_bytes)
        yield calls_of(f"gradients of {what}", "all_reduce", "dp_replicate", 1, padded * step.sum_bytes)


def _gathers(layout: Layout, step: StepShape, *, is_root: bool) -> int:
    """Of a unit in a step."""
    if layout.sharded != "all":
        return 1
    if layout.pp > 1:
        return 1 if is_root else step.micro_batches + 1
    return step.micro_batches if is_root else 2 * step.micro_batches


def sharding_units(model: ModelConfig, layout: Layout, stage: Stage) -> dict[tuple[int | None, bool], list[Block]]:
    """What FSDP gathers of `stage` in one call, by layer (None: the root) and whether it is the experts on their own
    mesh."""
    are_apart = layout.tp > 1 or layout.ep > 1 or layout.etp > 1
    units: dict[tuple[int | None, bool], list[Block]] = {}
    for parameter in parameters_of_stage(model, stage):
        key = parameter.layer, are_apart and parameter.is_of_experts
        units.setdefault(key, []).append(block_of(parameter, layout))
    return units


def _copied_gradient_calls(model: ModelConfig, layout: Layout, step: StepShape, stage: Stage) -> Iterator[Traffic]:
    copied = [block_of(one, layout) for one in parameters_of_stage(model, stage) if one.cut == "copied"]
    sizes = [block.rows_of(0) * block.row_size for block in copied]
    for places in buckets(sizes):
        size = sum(sizes[place] for place in places)
        yield calls_of("gradients of copies", "all_reduce", "tp", 1, size * step.sum_bytes)


def _stream_calls(model: ModelConfig, layout: Layout, step: StepShape, stages: Sequence[Stage]) -> Iterator[Traffic]:
    """The stream of each micro-batch from stage to stage, and its gradient back; not between stages of one rank."""
    here = {stage.index for stage in stages}
    positions = step.micro_batch_size * (step.sequence_length // (layout.cp * layout.tp))
    size = positions * model.hidden_size * step.number_bytes
    for stage in stages:
        is_received = not stage.is_first and stage.index - 1 not in here
        is_sent = not stage.is_last and stage.index + 1 not in here
        if is_received:
            yield calls_of("stream", "receive", "pp", step.micro_batches, size)
            yield calls_of("gradient of the stream", "send", "pp", step.micro_batches, size)
        if is_sent:
            yield calls_of("stream", "send", "pp", step.micro_batches, size)
            yield calls_of("gradient of the stream", "receive", "pp", step.micro_batches, size)


def _embedding_calls(model: ModelConfig, layout: Layout, step: StepShape, stages: Sequence[Stage]) -> Iterator[Traffic]:
    """This rank's shard from the first stage to the copy of the last one, and the copy's gradient back."""
    has_first, has_last = any(stage.is_first for stage in stages), any(stage.is_last for stage in stages)
    if not has_embedding_copy(model) or has_first == has_last:
        return
    block = block_of(_embedding(model), layout)
    size = block.rows_of(0) * block.row_size * step.number_bytes
    yield calls_of("embedding's copy", "send" if has_first else "receive", "pp", 1, size)
    yield calls_of("gradient of the embedding's copy", "receive" if has_first else "send", "pp", 1, size)


def _embedding(model: ModelConfig) -> Parameter:
    return next(one for one in parameters_of(model) if one.name == "embedding.weight")


def _step_calls(model: ModelConfig) -> Iterator[Traffic]:
    """Counts of targets, the report of losses and loads, and the norm of the gradient. All in fp64."""
    depths = model.num_mtp_layers
    layers = range(model.num_hidden_layers + depths)
    loads = mixtures_of(model, layers) * model.feed_forward.n_routed_experts if model.feed_forward.kind == "moe" else 0
    for what, numbers in (("counts", 2 + depths), ("losses and loads", 4 + depths + loads), ("norm", 1)):
        yield calls_of(f"{what} of the step", "all_reduce", "world", 1, numbers * _FLOAT64)
