"""Memory of a place of a pipeline, put together from what its layers take, each kind of which is computed once.

The same bytes as `plan.memory` finds by going through every layer; a test compares.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from firstlight.config.recompute import NoRecompute, OffloadConfig
from firstlight.layout.memory import gathered_elements, state_of_rank
from firstlight.layout.schedules import Slot, orders_of
from firstlight.layout.stages import Stage, stages_of, stages_on
from firstlight.plan.memory import buffer_bytes, saved_of_stage, state_bytes, working_bytes
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
        stages = self.stages(work)
        numbers = stages_on(place, work.layout.pp, work.pipeline) if work.layout.pp > 1 else [0]
        kinds = [self.kinds(work, stages[number]) for number in numbers]
        return sum(count * sum(self._state(work, kind)[1]) for one in kinds for kind, count in one.items())

    def _of_place(self, work: Work, place: int) -> int:
        all_stages = self.stages(work)
        numbers = stages_on(place, work.layout.pp, work.pipeline) if work.layout.pp > 1 else [0]
        kinds = {number: self.kinds(work, all_stages[number]) for number in numbers}
        found, largest, whole = 0, 0, 0
        for one in kinds.values():
            for kind, count in one.items():
                state, units = self._state(work, kind)
                found += count * state
                largest, whole = max(largest, max(units, default=0)), whole + count * sum(units)
        found += largest * 2 * work.practice.gathered_bytes + whole * _whole_bytes(work)
        saved = [sum(count * self._saved(work, kind) for kind, count in kinds[number].items()) for number in numbers]
        found += max(
            sum(size * held for size, held in zip(saved, most, strict=True)) for most in self._held(work, place)
        )
        has_head = any(all_stages[number].is_last for number in numbers)
        return found + self._working(work, has_head) + buffer_bytes(work)

    def _state(self, work: Work, kind: Stage) -> tuple[int, list[int]]:
        layout = work.layout
        key = "state", kind, layout.tp, layout.cp * layout.dp_shard, layout.ep, layout.etp, layout.dp_replicate
        if key not in self._known:
            here = [kind]
            state = state_of_rank(work.model, layout, 0, here, kept=work.kept)
            self._known[key] = state_bytes(work, state, self.offload), gathered_elements(work.model, layout, here)
        found: tuple[int, list[int]] = self._known[key]
        return found

    def _saved(self, work: Work, kind: Stage) -> int:
        key = "saved", kind, *_portion_key(work)
        if key not in self._known:
            self._known[key] = saved_of_stage(work, kind, self.offload)
        saved: int = self._known[key]
        return saved

    def _working(self, work: Work, has_head: bool) -> int:  # noqa: FBT001
        key = "working", has_head, *_portion_key(work)
        if key not in self._known:
            self._known[key] = working_bytes(work, has_head=has_head)
        working: int = self._known[key]
        return working

    def _held(self, work: Work, place: int) -> list[tuple[int, ...]]:
        """Micro-batches of each stage of a place that are held at once: the moments at which no other holds more."""
        few = work.representative
        key = "held", work.pipeline.schedule, work.pipeline.num_stages_per_rank, work.layout.pp, few, place
        if key not in self._known:
            order = self._order(work, few)[place]
            numbers = stages_on(place, work.layout.pp, work.pipeline) if work.layout.pp > 1 else [0]
            self._known[key] = _most_held(order, numbers)
        held: list[tuple[int, ...]] = self._known[key]
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


def _whole_bytes(work: Work) -> int:
    """Of an element of a sharded unit, as `whole_between_micro_batches` has it."""
    layout, practice = work.layout, work.practice
    parameters = practice.gathered_bytes if layout.pp > 1 or layout.sharded != "all" else 0
    return parameters + (practice.sum_bytes if layout.pp > 1 or layout.sharded == "optimizer" else 0)


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


def _most_held(order: Sequence[Slot], numbers: Sequence[int]) -> list[tuple[int, ...]]:
    held, seen = dict.fromkeys(numbers, 0), set()
    for slot in order:
        for action in slot:
            held[action.stage] += action.kind == "F"
        seen.add(tuple(held.values()))
        for action in slot:
            held[action.stage] -= action.kind in ("B", "W")
    return [one for one in seen if not any(other != one and _covers(other, one) for other in seen)]


def _covers(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(mine >= its for mine, its in zip(one, other, strict=True))
