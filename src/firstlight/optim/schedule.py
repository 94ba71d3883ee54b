"""Schedules: pure functions from the number of an update to a share of a value."""

import math
from collections.abc import Callable
from itertools import accumulate

from firstlight.config.schedule import (
    AnySchedule,
    ConstantSchedule,
    CosineAnnealingSchedule,
    CosineSchedule,
    CosineWithRestartsSchedule,
    DeepseekV3Schedule,
    LinearSchedule,
    PiecewiseSchedule,
    PolynomialSchedule,
    ScheduledNumber,
    WarmedUp,
    WarmRestartsSchedule,
    WarmupStableDecaySchedule,
)
from firstlight.config.timeline import Timeline

Share = Callable[[int], float]
"""By the number of an update, from 0."""

Ending = LinearSchedule | CosineSchedule | PolynomialSchedule | CosineWithRestartsSchedule


def number_at(number: float | ScheduledNumber, timeline: Timeline) -> Callable[[int], float]:
    """The value of a scheduled number for each update of a run."""
    if not isinstance(number, ScheduledNumber):
        return lambda _step: number
    value, share = number.value, share_at(number.schedule, timeline)
    return lambda step: value * share(step)


def share_at(config: AnySchedule, timeline: Timeline) -> Share:
    """The share of a value that update number `step` (from 0) of a run gets.

    Counted from one, a warm-up reaches the whole value at update `warmup_steps`, update 0 is at
    `1 / warmup_steps` of the way so that no update is wasted, and decays reach `final_ratio` at the last update.
    Counted from zero it is MindFormers' formulas: warm-up at t / W, decays at (t - W) / (T - W).
    """
    if isinstance(config, PiecewiseSchedule):
        return _pieces(config, timeline)
    warmup, initial = timeline.steps_in(config.warmup_steps), config.initial_ratio
    after, first = _after_warmup(config, timeline, warmup), _offset(config)

    def share(step: int) -> float:
        if step < warmup:
            return initial + (1 - initial) * ((step + first) / warmup)
        return after(step - warmup)

    return share


def _offset(config: WarmedUp) -> int:
    return 1 if config.counts_from == "one" else 0


def _after_warmup(config: WarmedUp, timeline: Timeline, warmup: int) -> Share:
    """The share by the number of an update after the `warmup` steps."""
    match config:
        case ConstantSchedule():
            return lambda _step: 1.0
        case LinearSchedule() | CosineSchedule() | PolynomialSchedule() | CosineWithRestartsSchedule():
            return _to_the_end(config, timeline, warmup)
        case CosineAnnealingSchedule():
            half = max(1, timeline.steps_in(config.half_wave_steps, after=warmup))
            return lambda step: _between(1, config.final_ratio, _half_cosine(step / half))
        case WarmRestartsSchedule():
            return _warm_restarts(config, max(1, timeline.steps_in(config.first_cycle_steps, after=warmup)))
        case WarmupStableDecaySchedule():
            return _stable_then_linear(config, timeline, warmup)
        case DeepseekV3Schedule():
            return _deepseek_v3(config, timeline, warmup)
    raise AssertionError(f"a schedule without a formula: {type(config).__name__}")


def _to_the_end(config: Ending, timeline: Timeline, warmup: int) -> Share:
    """Down to `final_ratio` over the rest of the run, or over `decay_steps`."""
    decay = None if isinstance(config, CosineWithRestartsSchedule) else config.decay_steps
    length = timeline.steps - warmup if decay is None else timeline.steps_in(decay, after=warmup)
    length = max(1, length - _offset(config))
    left = _left(config)

    def share(step: int) -> float:
        return _between(1, config.final_ratio, left(step / length) if step < length else 0.0)

    return share


def _left(config: Ending) -> Callable[[float], float]:
    """What is left of the way down at a progress from 0 to 1."""
    match config:
        case LinearSchedule():
            return lambda progress: 1 - progress
        case CosineSchedule():
            return lambda progress: _half_cosine(2 * config.num_waves * progress)
        case PolynomialSchedule():
            return lambda progress: float((1 - progress) ** config.power)
        case CosineWithRestartsSchedule():
            return lambda progress: _half_cosine(config.num_cycles * progress % 1)


def _warm_restarts(config: WarmRestartsSchedule, first: int) -> Share:
    factor = config.cycle_factor

    def share(step: int) -> float:
        begin, length = 0, first
        if factor == 1:
            begin = step // first * first
        else:
            while step >= begin + length:
                begin, length = begin + length, length * factor
        return _between(1, config.final_ratio, _half_cosine((step - begin) / length))

    return share


def _stable_then_linear(config: WarmupStableDecaySchedule, timeline: Timeline, warmup: int) -> Share:
    length, first = timeline.steps_at_the_end(config.decay_steps), _offset(config)
    begin = timeline.steps - warmup - length

    def share(step: int) -> float:
        progress = min(1.0, max(0.0, (step - begin + first) / length)) if length else 0.0
        return 1 - (1 - config.final_ratio) * progress

    return share


def _deepseek_v3(config: DeepseekV3Schedule, timeline: Timeline, warmup: int) -> Share:
    lengths = (config.stable_steps, config.decay_steps, config.middle_steps)
    stable, decay, middle = timeline.consecutive(lengths, after=warmup)

    def share(step: int) -> float:
        if step < stable:
            return 1.0
        if step < stable + decay:
            return _between(1, config.middle_ratio, _half_cosine((step - stable + _offset(config)) / decay))
        return config.middle_ratio if step < stable + decay + middle else config.final_ratio

    return share


def _pieces(config: PiecewiseSchedule, timeline: Timeline) -> Share:
    ends = list(accumulate(timeline.consecutive([piece.steps for piece in config.pieces])))

    def share(step: int) -> float:
        found = (piece.ratio for piece, end in zip(config.pieces, ends, strict=True) if step < end)
        return next(found, config.final_ratio)

    return share


def _half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _between(top: float, final: float, left: float) -> float:
    return final + (top - final) * left
