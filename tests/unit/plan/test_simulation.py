"""Simulated pipelines against closed forms: bubble and micro-batches in flight."""

from collections.abc import Sequence

import pytest

from firstlight.config.pipeline import PipelineConfig, ScheduleName
from firstlight.layout.schedules import Slot, orders_of
from firstlight.plan.simulation import Timeline, _simulated, moments_of, simulate

SECONDS = {"F": 1.0, "B": 2.0, "I": 1.0, "W": 1.0}


def duration(slot: Slot) -> float:
    return sum(SECONDS[action.kind] for action in slot)


def timeline(name: ScheduleName, degree: int, per_rank: int, micro_batches: int) -> Timeline:
    pipeline = PipelineConfig(schedule=name, stages_per_rank=per_rank)
    return simulate(pipeline, degree, micro_batches, duration, lambda _one, _other: 0.0)


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("degree", "micro_batches"), [(2, 4), (4, 4), (4, 16), (8, 64)])
def test_bubble_of_one_stage_is_its_closed_form(name: ScheduleName, degree: int, micro_batches: int) -> None:
    found = timeline(name, degree, 1, micro_batches)
    assert found.seconds == pytest.approx(3 * (micro_batches + degree - 1))
    assert found.bubble == pytest.approx((degree - 1) / (micro_batches + degree - 1))


@pytest.mark.parametrize(("degree", "per_rank", "micro_batches"), [(4, 2, 8), (4, 3, 16), (8, 2, 32), (8, 4, 128)])
def test_interleaving_divides_the_bubble(degree: int, per_rank: int, micro_batches: int) -> None:
    """(p - 1) passes of a chunk remain, arXiv:2104.04473, section 2.2."""
    found = timeline("interleaved_1f1b", degree, per_rank, micro_batches)
    assert found.seconds == pytest.approx(3 * (micro_batches * per_rank + degree - 1))


def test_zero_bubble_in_a_v_has_none_where_passes_are_alike() -> None:
    """With as long forward, input and weight passes only the way to the last rank and back remains."""
    found = timeline("zbv_zero_bubble", 4, 2, 32)
    assert found.seconds == pytest.approx(3 * 2 * 32 + 3)


def test_schedules_with_less_bubble_take_less_time() -> None:
    one, two, three = (
        timeline(name, 4, per_rank, 16).bubble
        for name, per_rank in (("looped_bfs", 2), ("interleaved_1f1b", 2), ("dualpipe_v", 2))
    )
    assert one >= two > three > 0


@pytest.mark.parametrize(("name", "per_rank"), [("1f1b", 1), ("interleaved_1f1b", 2), ("zbv_zero_bubble", 2)])
@pytest.mark.parametrize("micro_batches", [64, 128])
def test_a_long_step_is_continued_as_it_would_be_simulated(
    name: ScheduleName, per_rank: int, micro_batches: int
) -> None:
    pipeline = PipelineConfig(schedule=name, stages_per_rank=per_rank)

    def uneven(slot: Slot) -> float:
        return sum(SECONDS[action.kind] * (1 + action.stage / 10) for action in slot)

    def hop(_one: int, _other: int) -> float:
        return 0.25

    short, whole = (run(pipeline, 4, micro_batches, uneven, hop) for run in (simulate, _simulated))
    assert len(short.events[0]) < len(whole.events[0])
    assert short.seconds == pytest.approx(whole.seconds)
    assert short.busy == pytest.approx(whole.busy)


def test_uneven_rounds_are_simulated_whole() -> None:
    """Nine rounds of 17 micro-batches over 16 ranks: no shorter step has such rounds."""
    found = timeline("interleaved_1f1b", 16, 2, 9 * 17)
    assert len(found.events[0]) == 2 * 2 * 9 * 17
    assert found.busy == [3.0 * 2 * 9 * 17] * 16


def test_a_delay_between_stages_makes_the_first_round_longer() -> None:
    pipeline = PipelineConfig(schedule="1f1b")
    found = simulate(pipeline, 4, 8, duration, lambda _one, _other: 0.5)
    assert found.seconds >= 3 * (8 + 3) + 6 * 0.5


def most_in_flight(order: Sequence[Slot], stages: Sequence[int]) -> int:
    return max(sum(moment.held) for moment in moments_of(order, stages))


@pytest.mark.parametrize(("degree", "micro_batches"), [(4, 16), (8, 8)])
def test_in_flight_are_the_ranks_behind_and_one(degree: int, micro_batches: int) -> None:
    for rank, order in enumerate(orders_of(PipelineConfig(schedule="1f1b"), degree, micro_batches)):
        assert most_in_flight(order, [rank]) == min(micro_batches, degree - rank)


def test_all_are_in_flight_at_once_with_gpipe() -> None:
    for rank, order in enumerate(orders_of(PipelineConfig(schedule="gpipe"), 4, 12)):
        assert most_in_flight(order, [rank]) == 12


@pytest.mark.parametrize(("degree", "per_rank"), [(4, 2), (8, 3)])
def test_in_flight_chunks_of_interleaving_are_its_closed_form(degree: int, per_rank: int) -> None:
    """2 (p - r - 1) + (v - 1) p + 1, arXiv:2205.05198, section 4.2.3."""
    pipeline = PipelineConfig(schedule="interleaved_1f1b", stages_per_rank=per_rank)
    for rank, order in enumerate(orders_of(pipeline, degree, 8 * degree)):
        stages = [rank + turn * degree for turn in range(per_rank)]
        assert most_in_flight(order, stages) == 2 * (degree - rank - 1) + (per_rank - 1) * degree + 1


@pytest.mark.parametrize("degree", [4, 8])
def test_v_shaped_schedules_hold_as_much_on_every_rank(degree: int) -> None:
    """At most 2 p + 1 chunks of half the size, arXiv:2401.10241."""
    for name in ("zbv_zero_bubble", "dualpipe_v"):
        orders = orders_of(PipelineConfig(schedule=name), degree, 6 * degree)
        held = [most_in_flight(order, [rank, 2 * degree - 1 - rank]) for rank, order in enumerate(orders)]
        assert max(held) <= 2 * degree + 1
        assert min(held) >= 2 * degree - 1


def test_gradients_of_weights_are_loose_until_the_stage_goes_back_again() -> None:
    """In a zero-bubble pipeline: from the first of them on, also while another stage of the rank goes back."""
    orders = orders_of(PipelineConfig(schedule="zbv_zero_bubble"), 2, 8)
    moments = moments_of(orders[0], [0, 3])
    assert {moment.loose for moment in moments if moment.is_of_weights} >= {frozenset({0, 3})}
    plain = moments_of(orders_of(PipelineConfig(schedule="1f1b"), 2, 8)[0], [0])
    assert [(moment.is_of_weights, moment.loose, moment.held) for moment in plain] == [(False, frozenset(), (2,))]
