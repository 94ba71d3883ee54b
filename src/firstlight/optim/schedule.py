"""Learning-rate schedules: pure functions of the step."""

import math
from collections.abc import Callable

from firstlight.config.training import ConstantSchedule, CosineSchedule, Schedule, WarmupStableDecaySchedule


def learning_rate_schedule(config: Schedule, *, peak: float, steps: int) -> Callable[[int], float]:
    """The learning rate of update number `step` (from 0) of a run of `steps` updates.

    Warm-up is linear and reaches `peak` at update `warmup_steps`; update 0 of a run with warm-up is not zero but
    `peak / warmup_steps`, so that no update is wasted. Decays reach `final_ratio * peak` at the last update.
    """
    warmup = config.warmup_steps
    decay = _decay(config, steps)

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * decay(step)

    return rate


def _decay(config: Schedule, steps: int) -> Callable[[int], float]:
    """The share of the peak after warm-up, by update number."""
    last = steps - 1
    match config:
        case ConstantSchedule():
            return lambda _step: 1.0
        case CosineSchedule():
            start, final = config.warmup_steps, config.final_ratio

            def cosine(step: int) -> float:
                progress = min(1.0, (step - start) / max(1, last - start))
                return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

            return cosine
        case WarmupStableDecaySchedule():
            begin, length, floor = steps - config.decay_steps, config.decay_steps, config.final_ratio

            def stable_then_linear(step: int) -> float:
                progress = min(1.0, max(0.0, (step - begin + 1) / length)) if length else 0.0
                return 1 - (1 - floor) * progress

            return stable_then_linear
