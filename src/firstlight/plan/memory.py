"""Bytes of each rank of a pipeline when it holds most, by what they are for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from firstlight.config.recompute import NoRecompute, OffloadConfig
from firstlight.layout.activations import logits_of_head, saved_of_head, saved_of_layer
from firstlight.layout.layer_communication import layers_of
from firstlight.layout.memory import RankState, Units, state_of_rank, units_of
from firstlight.layout.schedules import Slot
from firstlight.layout.stages import Stage
from firstlight.plan.hardware import Hardware
from firstlight.plan.operations import routed_rows
from firstlight.plan.simulation import Moment, moments_of
from firstlight.plan.work import Work

_STATE_BYTES = 4
"""Of a number, in the figures of `layout.memory`."""
_MOMENT_BYTES = 8
"""Of both moments there."""
_NO_OFFLOAD = OffloadConfig()
_FEW = 2
"""Micro-batches whose gradients a model that is not sharded adds in their own type."""


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """Bytes of the first rank of a place in the pipeline, which has the largest shards, at the fullest moment of a
    step."""

    parameters: int
    """Of its shards."""
    moments: int
    gradients: int
    """What has been summed so far, in shards or whole."""
    gathered: int
    """Parameters of the model, beside this rank's shards."""
    activations: int
    """Of all micro-batches in flight, the loss included."""
    working: int
    """What the backward pass makes on the way: gradients of logits, of activations and of a layer's weights, and what
    it computes again."""
    buffers: int
    """Of calls between ranks."""
    reserve: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, one.name) for one in fields(self))


@dataclass(frozen=True, kw_only=True)
class StageBytes:
    """What memory needs to know of a stage."""

    stage: Stage
    units: Units
    saved: int
    """Of a micro-batch, without logits."""


@dataclass(frozen=True, kw_only=True)
class PlaceBytes:
    """What memory needs to know of a place of the pipeline."""

    parameters: int
    moments: int
    own: int
    """Elements of its gradients' shards."""
    stages: Mapping[int, StageBytes]
    moments_held: Sequence[Moment]
    passing: int
    """What a layer's backward pass makes on the way, see `passing_bytes`."""


def memory_of_places(
    work: Work, hardware: Hardware, orders: list[list[Slot]], offload: OffloadConfig = _NO_OFFLOAD
) -> list[RankMemory]:
    """Of each place of the pipeline, whose ranks work in these `orders`."""
    stages = work.stages
    known = {
        stage.index: StageBytes(
            stage=stage, units=units_of(work.model, work.layout, stage), saved=saved_of_stage(work, stage, offload)
        )
        for stage in stages
    }
    found = []
    for place, order in enumerate(orders):
        here = work.places_of(place)
        state = state_of_rank(
            work.model, work.layout, place * work.layout.stage_size, [stages[index] for index in here], kept=work.kept
        )
        parameters, moments = state_parts(work, state, offload)
        one = PlaceBytes(
            parameters=parameters,
            moments=moments,
            own=state.gradients // _STATE_BYTES,
            stages={index: known[index] for index in here},
            moments_held=moments_of(order, here),
            passing=passing_bytes(work),
        )
        found.append(fullest(work, one, int(hardware.reserve_bytes.value)))
    return found


def fullest(work: Work, place: PlaceBytes, reserve: int = 0) -> RankMemory:
    """Of the moment at which a place holds most."""
    gradients, gathered, activations, working = max(_moments(work, place), key=sum)
    return RankMemory(
        parameters=place.parameters,
        moments=place.moments,
        gradients=gradients,
        gathered=gathered,
        activations=activations,
        working=working,
        buffers=_buffers(work, place),
        reserve=reserve,
    )


def _moments(work: Work, place: PlaceBytes) -> Iterator[tuple[int, int, int, int]]:
    """Gradients, what is gathered, activations and what is made on the way: before the backward pass of the loss;
    within that of a layer; and at the end of the last one of a step, where sums in a wider type and gradients in the
    parameters' type are there at once."""
    practice, is_sharded = work.practice, _is_sharded(work)
    of_head, of_loss = logits_of_head(work.model, work.layout, work.portion, practice.numbers)
    sizes = [one.saved + (of_head if one.stage.is_last else 0) for one in place.stages.values()]
    keeps_whole, sums = _keeps_whole_sums(work), _sums(work, place)
    whole = sum(one.units.whole for one in place.stages.values())
    lets_go = work.layout.sharded == "all"
    for moment in place.moments_held:
        units, is_last = place.stages[moment.stage].units, place.stages[moment.stage].stage.is_last
        gradients = sums + (_loose(place, moment) * practice.gathered_bytes if is_sharded else 0)
        saved = sum(size * held for size, held in zip(sizes, moment.held, strict=True))
        # A stage of a pipeline keeps what it gathered for a backward pass until its next forward pass.
        roots = (whole - units.whole + units.roots if lets_go else whole) * practice.gathered_bytes * is_sharded
        layer = roots + (units.layer * practice.gathered_bytes if lets_go and is_sharded else 0)
        is_loss = is_last and not moment.is_of_weights
        if is_loss:
            yield gradients, roots, saved, of_loss
        within = place.passing
        if is_sharded and not keeps_whole:
            # Of a layer's weights on their way into sums, in the parameters' type and that of sums.
            within += units.layer * (practice.gathered_bytes + practice.sum_bytes)
        yield gradients, layer, saved - (of_head if is_loss else 0), within
        if not keeps_whole and practice.sum_bytes != practice.gradient_bytes:
            # All but what the end of the backward pass is about to add.
            ended = place.own * practice.gradient_bytes * (units.whole - units.roots - units.layer) // units.whole
            yield gradients + ended, layer, 0, within


def _loose(place: PlaceBytes, moment: Moment) -> int:
    """Elements of gradients of weights that were computed apart."""
    found = 0
    for index in moment.loose:
        units = place.stages[index].units
        found += units.whole - units.roots
    return found


def _is_sharded(work: Work) -> bool:
    """Whether FSDP is at work, if only to cast parameters."""
    return work.layout.world_size > 1 or work.practice.gathered_bytes != work.practice.parameter_bytes


def _keeps_whole_sums(work: Work) -> bool:
    return _is_sharded(work) and (work.layout.pp > 1 or work.layout.sharded == "optimizer")


def _sums(work: Work, place: PlaceBytes) -> int:
    """Of gradients, from one micro-batch to the next. The first one of a step finds none."""
    practice, count = work.practice, work.micro_batches
    if count == 1:
        return 0
    if _keeps_whole_sums(work):
        return sum(one.units.whole for one in place.stages.values()) * practice.sum_bytes
    is_exact = not _is_sharded(work) and count <= _FEW
    return place.own * (practice.gradient_bytes if is_exact else practice.sum_bytes)


def _buffers(work: Work, place: PlaceBytes) -> int:
    """Of the gather of a layer ahead of its use; and one for each micro-batch that a stage receives, forward and
    backward, which torch's pipelines make when they begin and keep."""
    practice, layout = work.practice, work.layout
    found = 0
    stages = [one.stage for one in place.stages.values()]
    if layout.sharded == "all" and any(one.units.divided for one in place.stages.values()):
        found += max(one.units.call for one in place.stages.values()) * practice.gathered_bytes
    if layout.pp > 1 and practice.receives_apart:
        stream = work.portion.positions // layout.tp * work.model.hidden_size * practice.number_bytes
        found += work.micro_batches * stream * sum((not one.is_first) + (not one.is_last) for one in stages)
    return found


def passing_bytes(work: Work) -> int:
    """What the backward pass of a layer makes on the way: gradients of the widest activations, twice; and the layer's
    own activations, if it computes them again."""
    model, numbers = work.model, work.practice.numbers
    last, mixture = model.num_hidden_layers - 1, model.feed_forward
    if model.is_moe_layer(last):
        widest = routed_rows(work) * max(model.hidden_size, getattr(mixture, "moe_intermediate_size", 0))
    else:
        widest = work.portion.positions * (mixture.intermediate_size or 0) // work.layout.tp
    passing = 2 * widest * numbers.product
    if isinstance(work.recompute, NoRecompute):
        return passing
    kept = saved_of_layer(model, last, work.layout, work.portion, numbers, NoRecompute())
    return passing + sum(one.size for one in kept)


def state_parts(work: Work, state: RankState, offload: OffloadConfig) -> tuple[int, int]:
    """Parameters and moments on the device."""
    moments = state.moments * work.practice.moment_bytes // _MOMENT_BYTES
    return (
        state.parameters * work.practice.parameter_bytes // _STATE_BYTES,
        moments if offload.optimizer_state == "device" else 0,
    )


def saved_of_stage(work: Work, stage: Stage, offload: OffloadConfig) -> int:
    """What a stage keeps of a micro-batch on the device, without logits."""
    kinds: dict[tuple[bool, bool, bool, bool], int] = {}
    found = 0
    away = offload.activations
    for layer in layers_of(work.model, stage):
        if away is not None and away.contains(layer):
            continue
        is_recomputed = not isinstance(work.recompute, NoRecompute) and work.recompute.layers.contains(layer)
        key = work.model.is_moe_layer(layer), layer >= work.model.num_hidden_layers, is_recomputed, stage.is_last
        if key not in kinds:
            kinds[key] = bytes_of_layer(work, layer)
        found += kinds[key]
    if stage.is_last:
        found += saved_of_head(work.model, work.layout, work.portion, work.practice.numbers)
    return found


def bytes_of_layer(work: Work, layer: int) -> int:
    """What a layer keeps of a micro-batch."""
    practice = work.practice
    return sum(
        one.size
        for one in saved_of_layer(work.model, layer, work.layout, work.portion, practice.numbers, work.recompute)
    )
