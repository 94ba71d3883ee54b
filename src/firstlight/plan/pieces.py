"""Memory of a place of a pipeline, put together from what its layers take, each kind of which is computed once.

The same bytes as `plan.memory` finds by going through every layer; a test compares.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from firstlight.config.recompute import NoRecompute, OffloadConfig
from firstlight.layout.memory import Units, state_of_rank, units_of
from firstlight.layout.schedules import Slot, orders_of
from firstlight.layout.stages import Stage, stages_of, stages_on
from firstlight.plan.memory import PlaceBytes, StageBytes, fullest, passing_bytes, saved_of_stage, state_parts
from firstlight.plan.simulation import Moment, moments_of
from firstlight.plan.work import Work


@dataclass
class Pieces:
    """Remembers what a search asks for again and again."""

    offload: OffloadConfig
    _known: dict[Any, Any] = field(default_factory=dict)

    def most_bytes(self, work: Work, places: Sequence[int]) -> int:
        """Of the place among `places` that needs most, without the profile's reserve."""
        return max(self._of_place(work, place) for place in places)

    def stages(self, work: Work) -> list[Stage]:
        """Of the whole pipeline."""
        key = "stages", work.layout.pp, work.pipeline
        if key not in self._known:
            self._known[key] = stages_of(work.model, work.pipeline, work.layout.pp, work.sequence_length)
        stages: list[Stage] = self._known[key]
        return stages

    def kinds(self, work: Work, stage: Stage) -> Counter[Stage]:
        """The layers and ends of a stage, as stages that have nothing else: one of each kind, and how many."""
        key = "kinds", work.layout.pp, work.pipeline, stage.index, work.recompute
        if key not in self._known:
            self._known[key] = _kinds(work, stage, self.offload)
        kinds: Counter[Stage] = self._known[key]
        return kinds

    def sharded_elements(self, work: Work, place: int) -> int:
        """What FSDP shards of a place, in whole."""
        return sum(self._stage(work, number).units.divided for number in self._numbers(work, place))

    def _of_place(self, work: Work, place: int) -> int:
        numbers = self._numbers(work, place)
        parameters = moments = own = 0
        for number in numbers:
            for kind, count in self.kinds(work, self.stages(work)[number]).items():
                state = self._state(work, kind)
                parameters, moments, own = (
                    total + count * one for total, one in zip((parameters, moments, own), state, strict=True)
                )
        found = PlaceBytes(
            parameters=parameters,
            moments=moments,
            own=own,
            stages={number: self._stage(work, number) for number in numbers},
            moments_held=self._held(work, place),
            passing=self._passing(work),
        )
        return fullest(work, found).total

    def _numbers(self, work: Work, place: int) -> list[int]:
        return stages_on(place, work.layout.pp, work.pipeline) if work.layout.pp > 1 else [0]

    def _stage(self, work: Work, number: int) -> StageBytes:
        layout = work.layout
        degrees = layout.tp, layout.cp * layout.dp_shard, layout.ep, layout.etp, layout.dp_replicate
        key = "stage", number, layout.pp, work.pipeline, degrees, _portion_key(work)
        if key not in self._known:
            stage, units, saved = self.stages(work)[number], Units(), 0
            for kind, count in self.kinds(work, stage).items():
                units, saved = units + self._units(work, kind).times(count), saved + count * self._saved(work, kind)
            self._known[key] = StageBytes(stage=stage, units=units, saved=saved)
        found: StageBytes = self._known[key]
        return found

    def _units(self, work: Work, kind: Stage) -> Units:
        layout = work.layout
        key = "units", kind, layout.tp, layout.cp * layout.dp_shard, layout.ep, layout.etp
        if key not in self._known:
            self._known[key] = units_of(work.model, layout, kind)
        units: Units = self._known[key]
        return units

    def _state(self, work: Work, kind: Stage) -> tuple[int, int, int]:
        """Bytes of parameters and moments, elements of gradients."""
        layout = work.layout
        key = "state", kind, layout.tp, layout.cp * layout.dp_shard, layout.ep, layout.etp, layout.dp_replicate
        if key not in self._known:
            state = state_of_rank(work.model, layout, 0, [kind], kept=work.kept)
            self._known[key] = *state_parts(work, state, self.offload), state.gradients // 4
        found: tuple[int, int, int] = self._known[key]
        return found

    def _saved(self, work: Work, kind: Stage) -> int:
        key = "saved", kind, *_portion_key(work)
        if key not in self._known:
            self._known[key] = saved_of_stage(work, kind, self.offload)
        saved: int = self._known[key]
        return saved

    def _passing(self, work: Work) -> int:
        key = "passing", *_portion_key(work)
        if key not in self._known:
            self._known[key] = passing_bytes(work)
        passing: int = self._known[key]
        return passing

    def _held(self, work: Work, place: int) -> list[Moment]:
        few = work.representative
        key = "held", work.pipeline.schedule, work.pipeline.num_stages_per_rank, work.layout.pp, few, place
        if key not in self._known:
            self._known[key] = moments_of(self._order(work, few)[place], self._numbers(work, place))
        held: list[Moment] = self._known[key]
        return held

    def _order(self, work: Work, few: int) -> list[list[Slot]]:
        key = "order", work.pipeline.schedule, work.pipeline.num_stages_per_rank, work.layout.pp, few
        if key not in self._known:
            self._known[key] = orders_of(work.pipeline, work.layout.pp, few)
        order: list[list[Slot]] = self._known[key]
        return order


def _portion_key(work: Work) -> tuple[Any, ...]:
    layout = work.layout
    return layout.tp, layout.cp, layout.cp_heads, layout.ep, layout.etp, work.micro_batch_size, work.recompute


def _kinds(work: Work, stage: Stage, offload: OffloadConfig) -> Counter[Stage]:
    firsts: dict[tuple[Any, ...], int] = {}
    for layer in reversed(range(work.model.num_hidden_layers)):
        firsts[_kind(work, layer, offload)] = layer
    found = [firsts[_kind(work, layer, offload)] for layer in stage.layers]
    kinds = Counter(Stage(index=1, count=3, layers=range(layer, layer + 1)) for layer in found)
    if stage.is_first or stage.is_last:
        count = 1 if stage.is_first and stage.is_last else 2
        kinds[Stage(index=0 if stage.is_first else 1, count=count, layers=range(0))] += 1
    return kinds


def _kind(work: Work, layer: int, offload: OffloadConfig) -> tuple[Any, ...]:
    """What makes layers of the decoder differ."""
    recompute, away = work.recompute, offload.activations
    is_repeated = not isinstance(recompute, NoRecompute) and recompute.layers.contains(layer)
    is_away = away is not None and away.contains(layer)
    return work.model.is_moe_layer(layer), work.model.attention.window_of(layer), is_repeated, is_away
