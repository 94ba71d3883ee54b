"""The steps of a run: batches that grow, sequences that become longer, and how lengths are counted across both."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from firstlight.config.batch import GlobalBatch, batch_of
from firstlight.config.schedule import Length
from firstlight.config.timeline import Stretch, Timeline, lay_steps


def batch(given: Any) -> Any:
    return batch_of(TypeAdapter(GlobalBatch).validate_python(given))


def length(given: Any) -> Any:
    return TypeAdapter(Length).validate_python(given)


def sizes(given: Any, steps: int, sequence_length: int = 10) -> list[int]:
    timeline = lay_steps(steps, batch(given), [], [sequence_length])
    return [timeline.at(step).batch_size for step in range(steps)]


def megatron_sizes(start: int, increment: int, ramp_samples: int, final: int, steps: int) -> list[int]:
    """RampupBatchsizeNumMicroBatchesCalculator.update of Megatron-LM (core/num_microbatches_calculator.py)."""
    per_increment = ramp_samples / ((final - start) // increment)
    consumed, found = 0, []
    for _ in range(steps):
        size = final if consumed > ramp_samples else min(final, start + int(consumed / per_increment) * increment)
        found.append(size)
        consumed += size
    return found


@pytest.mark.parametrize(("start", "increment", "over", "final"), [(4, 4, 120, 16), (2, 2, 64, 10), (3, 1, 37, 8)])
def test_a_ramp_by_samples_is_megatrons(start: int, increment: int, over: int, final: int) -> None:
    given = {"samples": final, "ramp": {"start": start, "increment": increment, "over": {"samples": over}}}
    assert sizes(given, 40) == megatron_sizes(start, increment, over, final, 40)


def test_a_ramp_by_steps_is_even_without_an_increment() -> None:
    assert sizes({"samples": 16, "ramp": {"start": 4, "over": 6}}, 8) == [4, 6, 8, 10, 12, 14, 16, 16]


def test_a_batch_in_tokens_is_whole_sequences_of_each_length() -> None:
    given = batch({"tokens": 105, "ramp": {"start": 25, "over": {"tokens": 300}}})
    timeline = lay_steps(12, given, [length({"tokens": 700})], [10, 30])
    consumed = 0
    for step in range(12):
        here = timeline.at(step)
        value = 105 if consumed >= 300 else 25 + 80 * consumed // 300
        assert here.sequence_length == (10 if consumed < 700 else 30)
        assert here.batch_size == value // here.sequence_length
        assert (timeline.tokens_before(step), timeline.tokens_before(step + 1) - consumed) == (
            consumed,
            here.tokens_per_step,
        )
        consumed += here.tokens_per_step
    assert (timeline.steps, timeline.tokens) == (12, consumed)


def test_places_are_found_by_samples_and_tokens() -> None:
    timeline = Timeline(
        stretches=(
            Stretch(steps=3, batch_size=2, sequence_length=10),
            Stretch(steps=2, batch_size=4, sequence_length=10),
            Stretch(steps=4, batch_size=4, sequence_length=50, phase=1),
        )
    )
    for step in range(10):
        assert timeline.step_at_samples(timeline.samples_before(step)) == step
        assert timeline.step_at_tokens(timeline.tokens_before(step)) == step
        assert timeline.step_at_tokens(timeline.tokens_before(step) + 1) == step + 1
    assert (timeline.samples, timeline.tokens) == (30, 60 + 80 + 800)
    assert timeline.samples_before(11) == 30 + 2 * 4, "behind the end it goes on as the last step"
    assert timeline.consecutive([length({"tokens": 70}), 2, length({"samples": 5})]) == [4, 2, 2]
    assert timeline.steps_in(length({"tokens": 140})) == 5
    assert timeline.steps_in(length({"tokens": 140}), after=4) == 2
    assert [timeline.steps_at_the_end(length({"tokens": count})) for count in (200, 201, 940)] == [1, 2, 9]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"samples": 4, "ramp": {"start": 4, "over": 2}}, "start below it"),
        ({"samples": 9, "ramp": {"start": 4, "increment": 2, "over": 2}}, "use a divisor of 5"),
        ({"tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        batch(given)


@pytest.mark.parametrize("increment", [None, 1, 3])
@pytest.mark.parametrize("begin", [7, {"tokens": 500}, {"samples": 41}])
def test_long_ramps_are_laid_out_by_their_sizes(increment: int | None, begin: Any) -> None:
    ramp = {"start": 2, "over": {"samples": 90}} | ({"increment": increment} if increment else {})
    timeline = lay_steps(25, batch({"samples": 8, "ramp": ramp}), [length(begin)], [10, 30])
    consumed = tokens = 0
    for step in range(25):
        share = 6 * consumed // 90 if increment is None else 6 // increment * consumed // 90 * increment
        size = 8 if consumed >= 90 else 2 + share
        is_next = step >= begin if isinstance(begin, int) else tokens >= 500 if "tokens" in begin else consumed >= 41
        here = timeline.at(step)
        assert (here.batch_size, here.phase, here.sequence_length) == (size, int(is_next), 30 if is_next else 10)
        consumed, tokens = consumed + size, tokens + here.tokens_per_step


def test_a_ramp_of_a_billion_steps_is_a_stretch_for_each_size() -> None:
    ramp = {"start": 1, "increment": 1, "over": 10**9}
    timeline = lay_steps(10**9 + 5, batch({"samples": 3, "ramp": ramp}), [], [10])
    assert [(one.steps, one.batch_size) for one in timeline.stretches] == [(5 * 10**8, 1), (5 * 10**8, 2), (5, 3)]
