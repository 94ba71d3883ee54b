"""Bytes of each rank of a pipeline, by what they are for."""

from dataclasses import dataclass, fields

from firstlight.config.recompute import NoRecompute, OffloadConfig
from firstlight.layout.activations import saved_of_head, saved_of_layer
from firstlight.layout.layer_communication import layers_of
from firstlight.layout.memory import RankState, largest_gathered_unit, state_of_rank, whole_between_micro_batches
from firstlight.layout.schedules import Slot
from firstlight.layout.stages import Stage
from firstlight.plan.hardware import Hardware
from firstlight.plan.simulation import most_in_flight
from firstlight.plan.work import Work

_STATE_BYTES = 4
"""Of a number, in the figures of `layout.memory`."""
_MOMENT_BYTES = 8
"""Of both moments there."""
_BUFFER_ELEMENTS = 2**26
_NO_OFFLOAD = OffloadConfig()


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """Bytes of the first rank of a place in the pipeline, which has the largest shards."""

    parameters: int
    gradients: int
    moments: int
    gathered: int
    """Of the model, beyond this rank's shards: layers on their way, and what stays whole between micro-batches."""
    activations: int
    """Of all micro-batches in flight at once, the loss included."""
    working: int
    """What one layer makes on the way: logits, or what is computed again."""
    buffers: int
    reserve: int

    @property
    def total(self) -> int:
        return sum(getattr(self, one.name) for one in fields(self))


def memory_of_places(
    work: Work, hardware: Hardware, orders: list[list[Slot]], offload: OffloadConfig = _NO_OFFLOAD
) -> list[RankMemory]:
    """Of each place of the pipeline, whose ranks work in these `orders`."""
    stages = work.stages
    sizes = {stage.index: float(saved_of_stage(work, stage, offload)) for stage in stages}
    return [
        _of_place(work, hardware, place, [stages[index] for index in work.places_of(place)], order, sizes, offload)
        for place, order in enumerate(orders)
    ]


def _of_place(
    work: Work,
    hardware: Hardware,
    place: int,
    stages: list[Stage],
    order: list[Slot],
    sizes: dict[int, float],
    offload: OffloadConfig,
) -> RankMemory:
    model, layout, practice = work.model, work.layout, work.practice
    state = state_of_rank(model, layout, place * layout.stage_size, stages, kept=work.kept)
    parameters, gradients, moments = _state_parts(work, state, offload)
    moving = largest_gathered_unit(model, layout, stages, number_bytes=practice.gathered_bytes)
    return RankMemory(
        parameters=parameters,
        gradients=gradients,
        moments=moments,
        gathered=2 * moving
        + whole_between_micro_batches(
            model, layout, stages, number_bytes=practice.gathered_bytes, sum_bytes=practice.sum_bytes
        ),
        activations=round(most_in_flight(order, sizes)),
        working=working_bytes(work, has_head=any(stage.is_last for stage in stages)),
        buffers=buffer_bytes(work),
        reserve=int(hardware.reserve_bytes.value),
    )


def state_bytes(work: Work, state: RankState, offload: OffloadConfig) -> int:
    """On the device."""
    return sum(_state_parts(work, state, offload))


def _state_parts(work: Work, state: RankState, offload: OffloadConfig) -> tuple[int, int, int]:
    practice = work.practice
    moments = state.moments * practice.moment_bytes // _MOMENT_BYTES
    return (
        state.parameters * practice.parameter_bytes // _STATE_BYTES,
        state.gradients * practice.gradient_bytes // _STATE_BYTES,
        moments if offload.optimizer_state == "device" else 0,
    )


def saved_of_stage(work: Work, stage: Stage, offload: OffloadConfig) -> int:
    """What a stage keeps of a micro-batch on the device."""
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


def buffer_bytes(work: Work) -> int:
    """Of calls between ranks."""
    return _BUFFER_ELEMENTS * work.practice.sum_bytes if work.layout.world_size > 1 else 0


def working_bytes(work: Work, *, has_head: bool) -> int:
    """The larger of the logits in the type of products and fp32, and a layer that is computed again."""
    logits = work.portion.positions * work.model.vocab_size // work.layout.tp
    head = logits * (work.practice.numbers.product + 4) if has_head else 0
    if isinstance(work.recompute, NoRecompute):
        return head
    kept = NoRecompute()
    numbers = work.practice.numbers
    last = work.model.num_hidden_layers - 1
    again = sum(one.size for one in saved_of_layer(work.model, last, work.layout, work.portion, numbers, kept))
    return max(head, again)
