"""Schedules at their edges, where an update too early or too late shows."""

import math
import random
from typing import Any

import pytest

from firstlight.config.schedule import (
    ConstantSchedule,
    CosineSchedule,
    ScheduledNumber,
    WarmupStableDecaySchedule,
)
from firstlight.config.timeline import Timeline
from firstlight.optim.schedule import number_at

SCHEDULES = {
    "constant": ConstantSchedule(warmup_steps=10),
    "cosine": CosineSchedule(warmup_steps=10, final_ratio=0.1),
    "warmup_stable_decay": WarmupStableDecaySchedule(warmup_steps=10, decay_steps=20, final_ratio=0.25),
}


def rates(config: Any, *, steps: int = 100, peak: float = 2e-3) -> list[float]:
    rate = number_at(ScheduledNumber(value=peak, schedule=config), Timeline.even(steps=steps))
    return [rate(step) for step in range(steps)]


@pytest.mark.parametrize("config", SCHEDULES.values(), ids=SCHEDULES)
def test_warm_up_is_linear_and_wastes_no_update(config: Any) -> None:
    values = rates(config)
    assert values[:10] == pytest.approx([2e-3 * (step + 1) / 10 for step in range(10)])
    assert values[0] > 0
    assert values[9] == values[10] == max(values) == 2e-3


@pytest.mark.parametrize(("config", "last"), [("constant", 2e-3), ("cosine", 2e-4), ("warmup_stable_decay", 5e-4)])
def test_last_update_has_the_final_ratio(config: str, last: float) -> None:
    values = rates(SCHEDULES[config])
    assert values[-1] == pytest.approx(last)
    assert min(values[10:]) == pytest.approx(last)
    if config != "constant":
        assert values[-2] > values[-1]


def test_cosine_is_half_a_wave_over_the_updates_after_warm_up() -> None:
    values = rates(SCHEDULES["cosine"], steps=31)
    for step in range(10, 31):
        wave = 0.5 * (1 + math.cos(math.pi * (step - 10) / 20))
        assert values[step] == pytest.approx(2e-3 * (0.1 + 0.9 * wave))
    assert values[20] == pytest.approx(2e-3 * 0.55)  # half way down, half way through


def test_stable_phase_lasts_until_the_decay() -> None:
    values = rates(SCHEDULES["warmup_stable_decay"])
    assert values[10:80] == [2e-3] * 70
    # 20 equal steps down, the first at update 80, the last at update 99.
    assert values[80:] == pytest.approx([2e-3 * (1 - 0.75 * (step + 1) / 20) for step in range(20)])


def test_no_decay_steps_is_no_decay() -> None:
    config = WarmupStableDecaySchedule(warmup_steps=2, decay_steps=0)
    assert rates(config, steps=9)[2:] == [2e-3] * 7


def test_decay_to_zero_reaches_it_at_the_last_update_only() -> None:
    values = rates(WarmupStableDecaySchedule(decay_steps=5), steps=9)
    assert values[-1] == 0
    assert all(value > 0 for value in values[:-1])


@pytest.mark.parametrize("config", [ConstantSchedule(), CosineSchedule(), WarmupStableDecaySchedule()], ids=str)
def test_without_warm_up_the_first_update_has_the_peak(config: Any) -> None:
    assert rates(config)[0] == 2e-3


@pytest.mark.parametrize("config", [ConstantSchedule(), CosineSchedule(), WarmupStableDecaySchedule()], ids=str)
def test_run_of_one_step(config: Any) -> None:
    assert rates(config, steps=1) == [2e-3]


@pytest.mark.parametrize("config", [CosineSchedule(warmup_steps=20), WarmupStableDecaySchedule(warmup_steps=20)])
def test_warm_up_to_the_last_update(config: Any) -> None:
    assert rates(config, steps=20) == pytest.approx([2e-3 * (step + 1) / 20 for step in range(20)])


@pytest.mark.parametrize("config", SCHEDULES.values(), ids=SCHEDULES)
def test_rate_depends_on_the_step_alone(config: Any) -> None:
    # A restart asks for the steps from the middle on, a rewind for some of them again.
    expected = rates(config)
    rate = number_at(ScheduledNumber(value=2e-3, schedule=config), Timeline.even(steps=100))
    order = [*range(100)] * 2
    random.Random(0).shuffle(order)
    assert all(rate(step) == expected[step] for step in order)
    other = number_at(ScheduledNumber(value=1.0, schedule=config), Timeline.even(steps=50))
    other(3)
    assert [rate(step) for step in range(100)] == expected
