"""In which order each rank of a pipeline computes, for every schedule of the configuration.

The runtime takes its schedules from torch.distributed.pipelining; a test holds these lists to those. They are made here
again because a plan is made without torch.
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from firstlight.config.pipeline import PipelineConfig
from firstlight.layout.stages import stages_on

Pass = Literal["F", "B", "I", "W"]
"""Forward; backward; backward as far as the input's gradient; the rest of it, the gradients of weights."""


class Action(NamedTuple):
    """One pass of a micro-batch through a stage."""

    kind: Pass
    stage: int
    micro_batch: int


Slot = tuple[Action, ...]
"""An action; or two that overlap, a forward and a backward pass."""


def orders_of(pipeline: PipelineConfig, degree: int, micro_batches: int) -> list[list[Slot]]:
    """What each of `degree` ranks does, in its order. The configuration's rules hold."""
    if degree == 1:
        return [[(Action(kind, 0, number),) for number in range(micro_batches) for kind in ("F", "B")]]
    return [
        list(_ORDERS[pipeline.schedule](_Place(rank, degree, tuple(stages_on(rank, degree, pipeline)), micro_batches)))
        for rank in range(degree)
    ]


def repeats(pipeline: PipelineConfig, degree: int, micro_batches: int) -> bool:
    """Whether a step with fewer micro-batches, as many more than whole rounds of `degree`, holds as much and goes on as
    this one does. Schedules with all forward passes first hold all; uneven rounds divide few numbers."""
    if pipeline.schedule in ("gpipe", "looped_bfs"):
        return False
    return micro_batches % degree == 0 or not pipeline.schedule.startswith("interleaved")


class _Place(NamedTuple):
    """A rank of the pipeline."""

    rank: int
    degree: int
    stages: tuple[int, ...]
    micro_batches: int

    @property
    def behind(self) -> int:
        """Ranks after this one."""
        return self.degree - 1 - self.rank


@dataclass
class _Writer:
    """Writes actions down, each stage's micro-batches in their order."""

    place: _Place
    slots: list[Slot] = field(default_factory=list)
    done: Counter[tuple[Pass, int]] = field(default_factory=Counter)
    waiting: deque[int] = field(default_factory=deque)
    """Chunks whose gradients of weights are still to be computed."""

    def take(self, kind: Pass, chunk: int) -> Action:
        """The next micro-batch of the chunk: a whole backward pass counts as both of its parts."""
        key: Pass = "I" if kind == "B" else kind
        number = self.done[key, chunk]
        self.done[key, chunk] += 1
        if kind == "B":
            self.done["W", chunk] += 1
        return Action(kind, self.place.stages[chunk], number)

    def add(self, kind: Pass, chunk: int) -> None:
        """One action."""
        self.slots.append((self.take(kind, chunk),))
        if kind == "I":
            self.waiting.append(chunk)

    def pair(self, forward: int, backward: int) -> None:
        """A forward pass of one chunk and a backward pass of the other, overlapping."""
        self.slots.append((self.take("F", forward), self.take("B", backward)))

    def add_waiting(self) -> None:
        """The gradients of weights that have waited longest, if any do."""
        if self.waiting:
            self.add("W", self.waiting.popleft())


def _gpipe(place: _Place) -> Iterator[Slot]:
    for kind in _FORWARD_BACKWARD:
        for number in range(place.micro_batches):
            yield (Action(kind, place.stages[0], number),)


def _one_forward_one_backward(place: _Place) -> Iterator[Slot]:
    writer = _Writer(place)
    ahead = min(place.behind, place.micro_batches)
    for _ in range(ahead):
        writer.add("F", 0)
    for _ in range(place.micro_batches - ahead):
        writer.add("F", 0)
        writer.add("B", 0)
    for _ in range(ahead):
        writer.add("B", 0)
    yield from writer.slots


def _looped_breadth_first(place: _Place) -> Iterator[Slot]:
    for stage in place.stages:
        for number in range(place.micro_batches):
            yield (Action("F", stage, number),)
    for stage in reversed(place.stages):
        for number in reversed(range(place.micro_batches)):
            yield (Action("B", stage, number),)


def _interleaved(place: _Place) -> Iterator[Slot]:
    yield from _in_rounds(place, ahead_of_next=2, backward="B")


def _interleaved_zero_bubble(place: _Place) -> Iterator[Slot]:
    """Gradients of weights lag behind by as many backward passes as there are ranks before this one (ZB-H1,
    arXiv:2401.10241)."""
    yield from _in_rounds(place, ahead_of_next=1, backward="I")


def _in_rounds(place: _Place, *, ahead_of_next: int, backward: Literal["B", "I"]) -> Iterator[Slot]:
    """Rounds of micro-batches through each of the stages in turn (arXiv:2104.04473)."""
    per_rank, count = len(place.stages), place.micro_batches
    size = count // max(1, count // place.degree)
    turns = [step // size % per_rank for step in range(per_rank * count)]
    ahead = min((per_rank - 1) * size + ahead_of_next * place.behind, len(turns))
    writer = _Writer(place)
    for chunk in turns[:ahead]:
        writer.add("F", chunk)
    for step, chunk in enumerate(turns):
        if step < len(turns) - ahead:
            writer.add("F", turns[ahead + step])
        writer.add(backward, per_rank - 1 - chunk)
        if step >= place.rank:
            writer.add_waiting()
    while writer.waiting:
        writer.add_waiting()
    yield from writer.slots


def _zero_bubble_v(place: _Place) -> Iterator[Slot]:
    """arXiv:2401.10241, section 6. Too few micro-batches are filled up, and what is too much left out again."""
    count = max(2 * place.degree - 1, place.micro_batches)
    writer = _Writer(place)
    for _ in range(2 * place.behind + 1):
        writer.add("F", 0)
    for _ in range(place.rank):
        writer.add("F", 1)
        writer.add("F", 0)
    for _ in range(place.behind + 1):
        _forward_and_backward(writer, 1)
    while writer.done["F", 1] < writer.done["F", 0] or writer.done["F", 0] < count:
        if writer.done["F", 0] < count:
            writer.add("F", 0)
        writer.add("I", 0)
        writer.add("W", 0)
        _forward_and_backward(writer, 1)
    for _ in range(place.rank):
        writer.add("I", 0)
        writer.add("I", 1)
    for _ in range(place.behind + 1):
        writer.add("I", 0)
        writer.add("W", 0)
    for chunk in (1, 0):
        while writer.done["W", chunk] < writer.done["I", chunk]:
            writer.add("W", chunk)
    yield from (slot for slot in writer.slots if slot[0].micro_batch < place.micro_batches)


def _forward_and_backward(writer: _Writer, chunk: int) -> None:
    for kind in _FORWARD_AND_BOTH_PARTS:
        writer.add(kind, chunk)


def _dual_pipe_v(place: _Place) -> Iterator[Slot]:
    """DeepSeek's DualPipe, cut in half: eight parts (arXiv:2412.19437, section 3.2.1)."""
    writer = _Writer(place)
    for _ in range(2 * place.behind):
        writer.add("F", 0)
    for _ in range(place.rank + 1):
        writer.add("F", 0)
        writer.add("F", 1)
    for _ in range(place.behind):
        writer.add("I", 1)
        writer.add_waiting()
        writer.add("F", 1)
    for turn in range(place.micro_batches - 2 * place.degree + place.rank + 1):
        if turn == 0 and place.behind == 0:
            writer.add("F", 0)
            writer.add("B", 1)
        else:
            writer.pair(0, 1)
        writer.pair(1, 0)
    for _ in range(place.behind):
        writer.add("B", 1)
        writer.pair(1, 0)
    _dual_pipe_end(writer)
    yield from writer.slots


def _dual_pipe_end(writer: _Writer) -> None:
    """Backward passes alone, the later ones in two parts: gradients of weights fill the last bubble."""
    place = writer.place
    first_split = (place.rank + 1) // 2 * 2 + (1 if place.rank % 2 == 0 else 0)
    for number in range(2 * (place.rank + 1)):
        writer.add("I" if number >= first_split else "B", 1 - number % 2)
    for _ in range(place.behind):
        writer.add_waiting()
        writer.add("I", 0)
    for _ in range(place.rank + 1):
        writer.add_waiting()


_FORWARD_BACKWARD: tuple[Pass, ...] = ("F", "B")
_FORWARD_AND_BOTH_PARTS: tuple[Pass, ...] = ("F", "I", "W")
_ORDERS = {
    "gpipe": _gpipe,
    "1f1b": _one_forward_one_backward,
    "looped_bfs": _looped_breadth_first,
    "interleaved_1f1b": _interleaved,
    "interleaved_zero_bubble": _interleaved_zero_bubble,
    "zbv_zero_bubble": _zero_bubble_v,
    "dualpipe_v": _dual_pipe_v,
}
