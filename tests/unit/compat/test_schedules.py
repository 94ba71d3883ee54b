"""Learning rates by MindFormers' names are MindFormers' numbers, at every update of the run."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from firstlight.config.scheduled_numbers import learning_rate_of
from firstlight.config.timeline import timeline_of
from firstlight.optim.schedule import number_at
from tests.unit.compat.old_yaml import PYNATIVE, changed, faults, translated, valid, with_lines

STEPS = 100
PEAK, END, INIT = 1e-3, 1e-4, 1e-5
Formula = Callable[[int], float]


def warmed(warmup: int, after: Formula, init: float = 0.0) -> Formula:
    """MindFormers' warm-up: t / W of the way."""
    return lambda t: init + (PEAK - init) * t / warmup if t < warmup else after(t)


def cosine(warmup: int, total: int, waves: float = 0.5, decay: int | None = None) -> Formula:
    def value(t: int) -> float:
        if t >= (total if decay is None else decay):
            return END
        progress = (t - warmup) / max(1, total - warmup)
        return END + (PEAK - END) * max(0.0, 0.5 * (1 + math.cos(math.pi * 2 * waves * progress)))

    return value


def linear(warmup: int, total: int) -> Formula:
    return lambda t: PEAK * max(0.0, (total - t) / (total - warmup))


def restarts(warmup: int, total: int, cycles: int) -> Formula:
    def value(t: int) -> float:
        phase = cycles * (t - warmup) / (total - warmup) % 1
        return END + (PEAK - END) * 0.5 * (1 + math.cos(math.pi * phase))

    return value


def stable(begin: int, total: int) -> Formula:
    return lambda t: PEAK if t < begin else PEAK + (END - PEAK) * (t - begin) / (total - begin)


def cool_down(t: int) -> float:
    """Warm-up 10, 40 steps at the top, a cosine of 20, 10 steps at 1e-4, then 5e-5."""
    if t < 50:
        return PEAK
    if t < 70:
        return 1e-4 + (PEAK - 1e-4) * 0.5 * (1 + math.cos(math.pi * (t - 50) / 20))
    return 1e-4 if t < 80 else 5e-5


CASES: dict[str, tuple[str, Formula]] = {
    "constant": ("type: ConstantWarmUpLR, warmup_steps: 10", warmed(10, lambda _t: PEAK)),
    "constant, warm-up from more": (
        "type: ConstantWarmUpLR, warmup_steps: 10, warmup_lr_init: 1.e-5",
        warmed(10, lambda _t: PEAK, INIT),
    ),
    "constant, by ratio": ("type: ConstantWarmUpLR, warmup_ratio: 0.155", warmed(15, lambda _t: PEAK)),
    "constant, ratio of a horizon": (
        "type: ConstantWarmUpLR, warmup_ratio: 0.1, total_steps: 400",
        warmed(40, lambda _t: PEAK),
    ),
    "constant, a warm-up beyond the run": (
        "type: ConstantWarmUpLR, warmup_steps: 250, warmup_lr_init: 1.e-5",
        warmed(250, lambda _t: PEAK, INIT),
    ),
    "linear": ("type: LinearWithWarmUpLR, warmup_steps: 10", warmed(10, linear(10, STEPS))),
    "linear, longer": (
        "type: LinearWithWarmUpLR, warmup_steps: 10, total_steps: 250",
        warmed(10, linear(10, 250)),
    ),
    "linear, shorter": ("type: LinearWithWarmUpLR, warmup_steps: 10, total_steps: 60", warmed(10, linear(10, 60))),
    "cosine": (
        "type: CosineWithWarmUpLR, warmup_steps: 10, lr_end: 1.e-4",
        warmed(10, cosine(10, STEPS)),
    ),
    "cosine, longer": (
        "type: CosineWithWarmUpLR, warmup_steps: 10, lr_end: 1.e-4, total_steps: 350",
        warmed(10, cosine(10, 350)),
    ),
    "cosine, shorter": (
        "type: CosineWithWarmUpLR, warmup_steps: 10, lr_end: 1.e-4, total_steps: 70",
        warmed(10, cosine(10, 70)),
    ),
    "cosine, cut at an absolute step": (
        "type: CosineWithWarmUpLR, warmup_steps: 10, lr_end: 1.e-4, decay_steps: 40",
        warmed(10, cosine(10, STEPS, decay=40)),
    ),
    "cosine, a wave and a half": (
        "type: CosineWithWarmUpLR, warmup_steps: 10, lr_end: 1.e-4, num_cycles: 1.5",
        warmed(10, cosine(10, STEPS, waves=1.5)),
    ),
    "restarts": (
        "type: CosineWithRestartsAndWarmUpLR, warmup_steps: 10, lr_end: 1.e-4, num_cycles: 3",
        warmed(10, restarts(10, STEPS, 3)),
    ),
    "restarts, longer": (
        "type: CosineWithRestartsAndWarmUpLR, warmup_steps: 10, lr_end: 1.e-4, num_cycles: 3, total_steps: 160",
        warmed(10, restarts(10, 160, 3)),
    ),
    "polynomial": (
        "type: PolynomialWithWarmUpLR, lr_end: 1.e-4, power: 2",
        lambda t: (PEAK - END) * (1 - t / STEPS) ** 2 + END,
    ),
    "stable": (
        "type: WarmUpStableDecayLR, warmup_steps: 10, lr_end: 1.e-4, decay_start_steps: 60",
        warmed(10, stable(60, STEPS)),
    ),
    "stable, longer": (
        "type: WarmUpStableDecayLR, warmup_steps: 10, lr_end: 1.e-4, decay_start_ratio: 0.4, total_steps: 200",
        warmed(10, stable(80, 200)),
    ),
    "cool-down": (
        "type: ConstantWithCoolDownLR, warmup_steps: 10, keep_steps: 40, decay_steps: 20, lr_end1: 1.e-4, "
        "final_steps: 10, lr_end2: 5.e-5",
        warmed(10, cool_down),
    ),
    "annealing": (
        "type: CosineAnnealingLR, t_max: 30, eta_min: 1.e-4",
        lambda t: END + (PEAK - END) * 0.5 * (1 + math.cos(math.pi * t / 30)),
    ),
    "warm restarts": (
        "type: CosineAnnealingWarmRestarts, t_0: 20, eta_min: 1.e-4",
        lambda t: END + (PEAK - END) * 0.5 * (1 + math.cos(math.pi * (t % 20) / 20)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_update_has_the_learning_rate_of_mindformers(tmp_path: Path, name: str) -> None:
    written, formula = CASES[name]
    text = with_lines(PYNATIVE, lr_scheduler=f"{{{written}, learning_rate: 1.e-3}}")
    config = valid(translated(tmp_path, text), world_size=8).config
    value = number_at(learning_rate_of(config), timeline_of(config))
    assert config.training.steps == STEPS
    assert [value(t) for t in range(STEPS)] == pytest.approx([formula(t) for t in range(STEPS)], rel=1e-12, abs=1e-15)


def test_an_unknown_schedule_is_refused(tmp_path: Path) -> None:
    [fault] = faults(tmp_path, changed(PYNATIVE, "ConstantWarmUpLR", "ConstantWarmLR"))
    assert fault.startswith("lr_scheduler.type = ConstantWarmLR is not known; use one of ConstantWarmUpLR, Linear")


def test_the_end_that_is_not_read_is_said_aloud(tmp_path: Path) -> None:
    text = with_lines(PYNATIVE, lr_scheduler="{type: ConstantWarmUpLR, learning_rate: 1.e-3, lr_end: 1.e-5}")
    assert "does not read lr_end = 1e-05: the learning rate stays" in translated(tmp_path, text).text


def test_a_curve_that_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    text = with_lines(
        PYNATIVE, lr_scheduler="{type: PolynomialWithWarmUpLR, learning_rate: 1.e-3, power: 2, total_steps: 900}"
    )
    assert "more than the run has" in faults(tmp_path, text)[0]
