"""Which steps a run has: how many sequences of which length each trains on, in which phase. Pure arithmetic.

Nothing here depends on the number of ranks, so every layout trains on the same samples at each step.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from firstlight.config.batch import SampleBatch, TokenBatch, batch_of
from firstlight.config.model import Attention, ModelConfig
from firstlight.config.schedule import SampleLength, TokenLength
from firstlight.config.schema import RunConfig

AnyLength = int | TokenLength | SampleLength


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Consecutive steps that are alike: `batch_size` sequences of `sequence_length` tokens, of phase `phase` (from 0,
    the one before the first of `phases`)."""

    steps: int
    batch_size: int
    sequence_length: int
    phase: int = 0

    @property
    def samples(self) -> int:
        """Of all its steps."""
        return self.steps * self.batch_size

    @property
    def tokens(self) -> int:
        """Of all its steps."""
        return self.samples * self.sequence_length

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.sequence_length


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The steps of a run. What lies behind the last of them is as that one is."""

    stretches: tuple[Stretch, ...]

    @classmethod
    def even(cls, *, steps: int = 1, batch_size: int = 1, sequence_length: int = 1) -> "Timeline":
        """All steps alike."""
        return cls(stretches=(Stretch(steps=steps, batch_size=batch_size, sequence_length=sequence_length),))

    @property
    def steps(self) -> int:
        return self._steps[-1]

    @property
    def samples(self) -> int:
        return self._samples[-1]

    @property
    def tokens(self) -> int:
        return self._tokens[-1]

    def at(self, step: int) -> Stretch:
        """The stretch of the step with this number, from 0."""
        return self.stretches[self._index(self._steps, step)]

    def samples_before(self, step: int) -> int:
        """Sequences of all steps before this one."""
        index = self._index(self._steps, step)
        return self._samples[index] + (step - self._steps[index]) * self.stretches[index].batch_size

    def tokens_before(self, step: int) -> int:
        """Tokens of all steps before this one."""
        index = self._index(self._steps, step)
        return self._tokens[index] + (step - self._steps[index]) * self.stretches[index].tokens_per_step

    def step_at_samples(self, samples: int) -> int:
        """The step before which so many sequences were trained on, or the first one after that."""
        index = self._index(self._samples, samples)
        return self._steps[index] + -(-(samples - self._samples[index]) // self.stretches[index].batch_size)

    def step_at_tokens(self, tokens: int) -> int:
        """The step before which so many tokens were trained on, or the first one after that."""
        index = self._index(self._tokens, tokens)
        return self._steps[index] + -(-(tokens - self._tokens[index]) // self.stretches[index].tokens_per_step)

    def steps_in(self, length: AnyLength, *, after: int = 0) -> int:
        """`length` in whole steps, rounded up, when it begins after `after` steps."""
        match length:
            case TokenLength():
                return self.step_at_tokens(self.tokens_before(after) + length.tokens) - after
            case SampleLength():
                return self.step_at_samples(self.samples_before(after) + length.samples) - after
            case _:
                return length

    def consecutive(self, lengths: Sequence[AnyLength], *, after: int = 0) -> list[int]:
        """Each of `lengths` in whole steps, the first one after `after` steps, the others one after the other."""
        steps: list[int] = []
        for length in lengths:
            steps.append(self.steps_in(length, after=after + sum(steps)))
        return steps

    def steps_at_the_end(self, length: AnyLength) -> int:
        """`length` in whole steps, rounded up, when it ends with the run."""
        match length:
            case TokenLength():
                left = self.tokens - length.tokens
                first = bisect_right(range(self.steps + 1), left, key=self.tokens_before) - 1
            case SampleLength():
                left = self.samples - length.samples
                first = bisect_right(range(self.steps + 1), left, key=self.samples_before) - 1
            case _:
                return length
        return self.steps - first if left >= 0 else self.steps + 1

    @cached_property
    def _steps(self) -> list[int]:
        return list(accumulate((one.steps for one in self.stretches), initial=0))

    @cached_property
    def _samples(self) -> list[int]:
        return list(accumulate((one.samples for one in self.stretches), initial=0))

    @cached_property
    def _tokens(self) -> list[int]:
        return list(accumulate((one.tokens for one in self.stretches), initial=0))

    def _index(self, starts: Sequence[int], place: int) -> int:
        return min(bisect_right(starts, place), len(self.stretches)) - 1


@dataclass(frozen=True, kw_only=True)
class _Position:
    """What is behind a step."""

    step: int = 0
    samples: int = 0
    tokens: int = 0

    def of(self, length: AnyLength) -> tuple[int, int]:
        """How much of `length` it is, in the unit of `length`, and `length` in that unit."""
        match length:
            case TokenLength():
                return self.tokens, length.tokens
            case SampleLength():
                return self.samples, length.samples
            case _:
                return self.step, length

    def after(self, stretch: Stretch) -> "_Position":
        return _Position(
            step=self.step + stretch.steps,
            samples=self.samples + stretch.samples,
            tokens=self.tokens + stretch.tokens,
        )


def timeline_of(config: RunConfig) -> Timeline:
    """The steps of a run."""
    begins = [phase.begins_at for phase in config.phases]
    lengths = list(sequence_lengths(config).values())
    return lay_steps(config.training.steps, batch_of(config.training.global_batch_size), begins, lengths)


def lay_steps(
    steps: int, batch: SampleBatch | TokenBatch, begins: Sequence[AnyLength], lengths: Sequence[int]
) -> Timeline:
    """`steps` steps; phase k + 1 begins at `begins[k]`, and phase k has sequences of `lengths[k]` tokens."""
    position, phase = _Position(), 0
    stretches: list[Stretch] = []
    while position.step < steps:
        while phase < len(begins) and _is_reached(position, begins[phase]):
            phase += 1
        one = Stretch(
            steps=1,
            batch_size=_size(batch, position, lengths[phase]),
            sequence_length=lengths[phase],
            phase=phase,
        )
        begin = begins[phase] if phase < len(begins) else None
        one = replace(one, steps=_steps_alike(one, position, batch, begin, steps - position.step))
        position = position.after(one)
        stretches.append(one)
    return Timeline(stretches=tuple(stretches))


def sequence_lengths(config: RunConfig) -> dict[str, int]:
    """The sequence length of every phase, by the key that says it; a phase without its own repeats the one before."""
    lengths = {"data.train.sequence_length": config.data.train.sequence_length}
    last = config.data.train.sequence_length
    for number, phase in enumerate(config.phases):
        last = phase.sequence_length or last
        lengths[f"phases.{number}.sequence_length"] = last
    return lengths


def attentions_of(config: RunConfig) -> tuple[Attention, ...]:
    """The attention of every phase: the model's, its rotary embedding as the phases so far have it."""
    attentions: list[Attention] = [config.model.attention]
    for phase in config.phases:
        changes = {"theta": phase.rope_theta, "scaling": phase.rope_scaling}
        last = attentions[-1]
        rope = last.rope.model_copy(update={key: value for key, value in changes.items() if value is not None})
        attentions.append(last.model_copy(update={"rope": rope}))
    return tuple(attentions)


def model_after(config: RunConfig, step: int) -> ModelConfig:
    """The model as the last of `step` steps trained it."""
    phase = timeline_of(config).at(max(0, step - 1)).phase
    return config.model.model_copy(update={"attention": attentions_of(config)[phase]})


def _is_reached(position: _Position, length: AnyLength) -> bool:
    consumed, needed = position.of(length)
    return consumed >= needed


def _size(batch: SampleBatch | TokenBatch, position: _Position, sequence_length: int) -> int:
    """Sequences of the step at `position`."""
    value = batch.final
    if batch.ramp is not None:
        consumed, over = position.of(batch.ramp.over)
        value = batch.ramp.value_at(consumed, over, batch.final)
    return batch.sequences(value, sequence_length)


def _steps_alike(
    first: Stretch, position: _Position, batch: SampleBatch | TokenBatch, begin: AnyLength | None, left: int
) -> int:
    """How many of the `left` steps from `position` on are as `first`, which is one step: until the batch has another
    size, or `begin` is reached. Both are for good, so halving finds the place: a ramp may have 100,000 steps."""

    def is_over(steps: int) -> bool:
        later = position.after(replace(first, steps=steps))
        is_next = begin is not None and _is_reached(later, begin)
        return is_next or _size(batch, later, first.sequence_length) != first.batch_size

    if is_over(1):
        return 1
    return 1 + bisect_left(range(1, left), True, key=is_over)
