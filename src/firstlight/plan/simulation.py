"""A step of a pipeline, action by action: when each begins, what waits for what, and what is in flight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import ge

from firstlight.config.pipeline import PipelineConfig
from firstlight.layout.schedules import Action, Pass, Slot, orders_of, repeats
from firstlight.layout.stages import stages_on

_STEADY = 3
"""Rounds of micro-batches after which a pipeline repeats itself; longer steps are continued from there."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A slot of a rank, with its seconds from the beginning of the step."""

    slot: Slot
    begin: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What each rank does. `seconds` is of the whole step; `events` of its simulated part."""

    events: list[list[Event]]
    seconds: float
    busy: list[float]
    """Of each rank, in the whole step."""

    @property
    def bubble(self) -> float:
        """The share of all ranks' time in which they wait."""
        return 1 - sum(self.busy) / (self.seconds * len(self.busy)) if self.seconds else 0.0


Duration = Callable[[Slot], float]


def simulate(
    pipeline: PipelineConfig, degree: int, micro_batches: int, duration: Duration, delay: Callable[[int, int], float]
) -> Timeline:
    """One step. `delay` is the seconds from one stage to the next, by their indices.

    After some rounds a pipeline repeats itself: a longer step is as much longer as one more round is.
    """
    duration = _remembered(duration)
    most = _STEADY * degree + 2 * degree + micro_batches % degree
    if micro_batches <= most + degree or not repeats(pipeline, degree, micro_batches):
        return _simulated(pipeline, degree, micro_batches, duration, delay)
    long = _simulated(pipeline, degree, most + degree, duration, delay)
    short = _simulated(pipeline, degree, most, duration, delay)
    rounds = (micro_batches - most - degree) / degree
    return Timeline(
        events=long.events,
        seconds=long.seconds + rounds * (long.seconds - short.seconds),
        busy=[one + rounds * (one - other) for one, other in zip(long.busy, short.busy, strict=True)],
    )


def _remembered(duration: Duration) -> Duration:
    """All micro-batches take as long."""
    known: dict[tuple[tuple[Pass, int], ...], float] = {}

    def of(slot: Slot) -> float:
        key = tuple((action.kind, action.stage) for action in slot)
        if key not in known:
            known[key] = duration(slot)
        return known[key]

    return of


def _simulated(
    pipeline: PipelineConfig, degree: int, micro_batches: int, duration: Duration, delay: Callable[[int, int], float]
) -> Timeline:
    orders = orders_of(pipeline, degree, micro_batches)
    last = degree * (pipeline.num_stages_per_rank if degree > 1 else 1) - 1
    done: dict[tuple[Pass, int, int], float] = {}
    clocks, places = [0.0] * degree, [0] * degree
    events: list[list[Event]] = [[] for _ in orders]
    is_moving = True
    while is_moving:
        is_moving = False
        for rank, order in enumerate(orders):
            while places[rank] < len(order):
                slot = order[places[rank]]
                ready = _ready(slot, done, last, delay)
                if ready is None:
                    break
                begin = max(clocks[rank], ready)
                clocks[rank] = end = begin + duration(slot)
                for action in slot:
                    done["I" if action.kind == "B" else action.kind, action.stage, action.micro_batch] = end
                events[rank].append(Event(slot=slot, begin=begin, end=end))
                places[rank] += 1
                is_moving = True
    unfinished = [rank for rank, order in enumerate(orders) if places[rank] < len(order)]
    assert not unfinished, f"ranks {unfinished} of schedule {pipeline.schedule} wait for each other"
    busy = [sum(event.end - event.begin for event in one) for one in events]
    return Timeline(events=events, seconds=max(clocks), busy=busy)


def _ready(
    slot: Slot, done: dict[tuple[Pass, int, int], float], last: int, delay: Callable[[int, int], float]
) -> float | None:
    """When all that the slot waits for has arrived; None while some of it has not been computed."""
    ready = 0.0
    for action in slot:
        source = _source(action, last)
        if source is None:
            continue
        when = done.get((source.kind, source.stage, action.micro_batch))
        if when is None:
            return None
        ready = max(ready, when + (delay(source.stage, action.stage) if source.stage != action.stage else 0.0))
    return ready


def _source(action: Action, last: int) -> Action | None:
    """What an action waits for; a weight's gradient follows its input's on the same rank."""
    match action.kind:
        case "F":
            return Action("F", action.stage - 1, action.micro_batch) if action.stage else None
        case "B" | "I" if action.stage == last:
            return Action("F", last, action.micro_batch)
        case "B" | "I":
            return Action("I", action.stage + 1, action.micro_batch)
        case _:
            return None


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The beginning of an action of a backward pass, when most is there."""

    stage: int
    is_of_weights: bool
    """Whether it computes gradients of weights alone."""
    loose: frozenset[int]
    """Stages of the rank whose weights' gradients, computed apart, no later backward pass has taken into sums."""
    held: tuple[int, ...]
    """Micro-batches of each stage of the rank that wait for their backward pass, gradients of weights included."""


def moments_of(order: Sequence[Slot], stages: Sequence[int]) -> list[Moment]:
    """Of a rank that has these stages: those at which no other one of the same kind holds more."""
    held = dict.fromkeys(stages, 0)
    loose: set[int] = set()
    seen: dict[tuple[int, bool, frozenset[int]], set[tuple[int, ...]]] = {}
    for slot in order:
        for action in slot:
            held[action.stage] += action.kind == "F"
        for action in slot:
            if action.kind != "F":
                is_of_weights = action.kind == "W"
                loose |= {action.stage} if is_of_weights else set()
                seen.setdefault((action.stage, is_of_weights, frozenset(loose)), set()).add(tuple(held.values()))
                loose -= set() if is_of_weights else {action.stage}
        for action in slot:
            held[action.stage] -= action.kind in ("B", "W")
    return [
        Moment(stage=stage, is_of_weights=is_of_weights, loose=apart, held=one)
        for (stage, is_of_weights, apart), found in seen.items()
        for one in found
        if not any(other != one and all(map(ge, other, one)) for other in found)
    ]


def ranks_of_stages(pipeline: PipelineConfig, degree: int) -> dict[int, int]:
    """The place of the pipeline that each stage is at."""
    if degree == 1:
        return {0: 0}
    return {stage: rank for rank in range(degree) for stage in stages_on(rank, degree, pipeline)}
