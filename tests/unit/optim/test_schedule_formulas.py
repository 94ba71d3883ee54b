"""Every schedule against formulas written down independently: torch's schedulers, MindFormers' and DeepSeek-V3's."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch.optim import lr_scheduler

from firstlight.config.schedule import Schedule, ScheduledNumber
from firstlight.config.timeline import Timeline
from firstlight.optim.schedule import number_at

T, W, PEAK, END = 50, 8, 3e-3, 2e-4
RATIO = END / PEAK


def schedule(**keys: Any) -> ScheduledNumber:
    return ScheduledNumber(value=PEAK, schedule=TypeAdapter(Schedule).validate_python(keys))


def from_zero(**keys: Any) -> ScheduledNumber:
    return schedule(**keys, counts_from="zero", warmup_steps=W)


def warmed(after: Callable[[int], float]) -> Callable[[int], float]:
    """MindFormers' warm-up from nothing."""
    return lambda t: PEAK * t / W if t < W else after(t)


def restarts(t: int, *, cycles: int) -> float:
    progress = (t - W) / (T - W)
    return END if progress >= 1 else END + (PEAK - END) * 0.5 * (1 + math.cos(math.pi * ((cycles * progress) % 1)))


def cosine(t: int, waves: float) -> float:
    return END + (PEAK - END) * max(0.0, 0.5 * (1 + math.cos(2 * math.pi * waves * (t - W) / (T - W))))


def cool_down(t: int) -> float:
    """ConstantWithCoolDownLR: keep 12, cosine over 10 to a first end, 8 there, then the second."""
    first, second = PEAK * 0.1, PEAK * 0.033
    if t < W + 12:
        return PEAK
    if t < W + 22:
        return first + (PEAK - first) * 0.5 * (1 + math.cos(math.pi * (t - W - 12) / 10))
    return first if t < W + 30 else second


MINDFORMERS = {
    "ConstantWarmUpLR": (from_zero(type="constant"), lambda _t: PEAK),
    "LinearWithWarmUpLR": (from_zero(type="linear"), lambda t: PEAK * max(0.0, (T - t) / (T - W))),
    "CosineWithWarmUpLR": (from_zero(type="cosine", final_ratio=RATIO), lambda t: cosine(t, 0.5)),
    "CosineWithWarmUpLR, 3 waves": (
        from_zero(type="cosine", num_waves=3, final_ratio=RATIO),
        lambda t: cosine(t, 3.0),
    ),
    "CosineWithRestartsAndWarmUpLR": (
        from_zero(type="cosine_with_restarts", num_cycles=3, final_ratio=RATIO),
        lambda t: restarts(t, cycles=3),
    ),
    "PolynomialWithWarmUpLR": (
        from_zero(type="polynomial", power=2.0, final_ratio=RATIO),
        lambda t: (PEAK - END) * (1 - (t - W) / (T - W)) ** 2.0 + END,
    ),
    "WarmUpStableDecayLR": (
        from_zero(type="warmup_stable_decay", decay_steps=15, final_ratio=RATIO),
        lambda t: PEAK if t < T - 15 else PEAK + (END - PEAK) * (t - (T - 15)) / 15,
    ),
    "ConstantWithCoolDownLR": (
        from_zero(type="deepseek_v3", stable_steps=12, decay_steps=10, middle_steps=8, final_ratio=0.033),
        cool_down,
    ),
}


@pytest.mark.parametrize("name", MINDFORMERS)
def test_mindformers_formulas(name: str) -> None:
    config, after = MINDFORMERS[name]
    rate, expected = number_at(config, Timeline.even(steps=T)), warmed(after)
    assert [rate(t) for t in range(T)] == pytest.approx([expected(t) for t in range(T)], rel=1e-12, abs=1e-18)


def linear_up_and_cosine_down(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    up = lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=W)
    down = lr_scheduler.CosineAnnealingLR(optimizer, T_max=T - W, eta_min=END)
    return lr_scheduler.SequentialLR(optimizer, [up, down], milestones=[W])


TORCH = {
    "cosine annealing": (
        schedule(type="cosine_annealing", half_wave_steps=12, final_ratio=RATIO),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=12, eta_min=END),
    ),
    "warm restarts": (
        schedule(type="warm_restarts", first_cycle_steps=5, cycle_factor=2, final_ratio=RATIO),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=5, T_mult=2, eta_min=END),
    ),
    "warm restarts of one length": (
        schedule(type="warm_restarts", first_cycle_steps=7, final_ratio=RATIO),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=7, eta_min=END),
    ),
    "polynomial": (
        schedule(type="polynomial", power=3.0, decay_steps=30, counts_from="zero"),
        lambda o: lr_scheduler.PolynomialLR(o, total_iters=30, power=3.0),
    ),
    "linear": (
        schedule(type="linear", decay_steps=20, final_ratio=0.25, counts_from="zero"),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.25, total_iters=20),
    ),
    "piecewise": (
        schedule(type="piecewise", pieces=[{"steps": 10, "ratio": 1}, {"steps": 15, "ratio": 0.5}], final_ratio=0.25),
        lambda o: lr_scheduler.MultiStepLR(o, [10, 25], gamma=0.5),
    ),
    "up and down": (
        schedule(type="cosine", warmup_steps=W, initial_ratio=0.25, counts_from="zero", final_ratio=RATIO),
        linear_up_and_cosine_down,
    ),
}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_torchs_schedulers(name: str) -> None:
    config, build = TORCH[name]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=PEAK)
    theirs = build(optimizer)
    rate = number_at(config, Timeline.even(steps=T))
    for t in range(T):
        assert rate(t) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), t
        optimizer.step()
        theirs.step()


def test_deepseek_v3_by_tokens() -> None:
    """arXiv:2412.19437, section 4.2, at a hundredth of its steps: 14.8T tokens, of which 10T are constant."""
    tokens = 15360 * 4096 * 100
    span = Timeline.even(steps=round(14.8e12 / tokens), sequence_length=tokens)
    config = ScheduledNumber(
        value=2.2e-4,
        schedule=TypeAdapter(Schedule).validate_python(
            {
                "type": "deepseek_v3",
                "warmup_steps": 2,
                "stable_steps": {"tokens": 10**13 - 2 * tokens},
                "decay_steps": {"tokens": 43 * 10**11},
                "middle_steps": {"tokens": 333 * 10**9},
            }
        ),
    )
    rate = number_at(config, span)

    def after(trained: float) -> float:
        return rate(math.ceil(trained / tokens))

    assert rate(0) == pytest.approx(1.1e-4)
    assert rate(1) == rate(100) == after(9.7e12) == 2.2e-4
    assert after(10e12 + 2.15e12) == pytest.approx((2.2e-4 + 2.2e-5) / 2, rel=0.01)
    assert after(14.4e12) == pytest.approx(2.2e-5)
    assert rate(span.steps - 1) == pytest.approx(7.3e-6)


def test_lengths_in_tokens_are_whole_steps() -> None:
    by_steps = number_at(schedule(type="linear", warmup_steps=3), Timeline.even(steps=9))
    by_tokens = number_at(
        schedule(type="linear", warmup_steps={"tokens": 250}), Timeline.even(steps=9, sequence_length=100)
    )
    assert [by_steps(t) for t in range(9)] == [by_tokens(t) for t in range(9)]


@pytest.mark.parametrize("name", [*MINDFORMERS, *TORCH])
def test_a_restart_in_the_middle_sees_the_same_values(name: str) -> None:
    config, _ = (MINDFORMERS | TORCH)[name]
    whole = [number_at(config, Timeline.even(steps=T))(t) for t in range(T)]
    again = ScheduledNumber.model_validate(config.model_dump(mode="json"))
    rate = number_at(again, Timeline.even(steps=T))
    assert [rate(t) for t in range(T // 2, T)] == whole[T // 2 :]


def test_plain_number_is_the_same_at_every_step() -> None:
    assert {number_at(0.3, Timeline.even(steps=T))(t) for t in range(T)} == {0.3}
