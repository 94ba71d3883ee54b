"""The learning rate's schedule out of the facts, by MindFormers' names and formulas.

t counts updates from 0, W is the warm-up, T the horizon of a decay, S the steps of the run. A run that is shorter than
its horizon sees the first part of the curve; it is written as a curve that is that part.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.compat.facts import Facts


@dataclass(frozen=True, kw_only=True)
class Span:
    """Steps of the run, of an epoch, and the horizon of decays."""

    steps: int
    per_epoch: int
    horizon: int


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What optimizer and lr_scheduler get."""

    learning_rate: float
    schedule: dict[str, Any]


def build_schedule(facts: Facts, steps: int, all_steps: int, per_epoch: int) -> Rate:
    """`steps` are those that are taken, `all_steps` those of all epochs."""
    total = facts.count("total_steps", -1)
    span = Span(steps=steps, per_epoch=per_epoch, horizon=total if total > 0 else all_steps)
    peak = facts.number("learning_rate", facts.number("optimizer_learning_rate", 5e-5))
    peak *= _scale(facts)
    if peak <= 0:
        facts.refuse("learning_rate", "is not more than 0")
        return Rate(learning_rate=1.0, schedule={"type": "constant"})
    if not facts.has("schedule"):
        facts.note("lr_scheduler", "there is no schedule: the learning rate is constant")
        return Rate(learning_rate=peak, schedule={"type": "constant"})
    warmup = _warmup(facts, span)
    if warmup >= steps and warmup > 0:
        return _warmup_alone(facts, peak, warmup, steps)
    kind = str(facts.value("schedule"))
    formula = _FORMULAS.get(kind)
    if formula is None:
        facts.refuse("schedule", f"is not known; use one of {', '.join(_FORMULAS)}")
        return Rate(learning_rate=peak, schedule={"type": "constant"})
    schedule = formula(facts, span, warmup, peak)
    schedule |= {"counts_from": "zero"}
    if warmup:
        schedule |= {"warmup_steps": warmup, "initial_ratio": _ratio(facts, "warmup_lr_init", 0.0, peak)}
    return Rate(learning_rate=peak, schedule=schedule)


def _scale(facts: Facts) -> float:
    if not facts.is_on("learning_rate_is_scaled"):
        return 1.0
    data = facts.count("data_parallel", 1) * facts.count("micro_batch_size", 1)
    return data / facts.number("learning_rate_scale", 256.0)


def _warmup(facts: Facts, span: Span) -> int:
    if facts.has("warmup_ratio"):
        if facts.has("warmup_steps") and facts.count("warmup_steps", 0):
            facts.note("lr_scheduler", "warmup_ratio goes before warmup_steps", "warmup_ratio", "warmup_steps")
        return int(span.horizon * facts.number("warmup_ratio", 0.0))
    if facts.has("warmup_epochs"):
        return facts.count("warmup_epochs", 0) * span.per_epoch
    return facts.count("warmup_steps", 0)


def _ratio(facts: Facts, fact: str, default: float, peak: float) -> float:
    ratio = facts.number(fact, default) / peak
    if not 0 <= ratio <= 1:
        facts.refuse(fact, f"is no share of the learning rate {peak:g}, from 0 to it")
        return 0.0
    return ratio


def _warmup_alone(facts: Facts, peak: float, warmup: int, steps: int) -> Rate:
    """The run ends in its warm-up: its first part, as a warm-up of its own."""
    initial = _ratio(facts, "warmup_lr_init", 0.0, peak) * peak
    reached = initial + (peak - initial) * steps / warmup
    facts.note(
        "lr_scheduler",
        f"a warm-up of {warmup} steps does not end within the run of {steps}: the learning rate rises to {reached:g}",
        "warmup_steps",
        "warmup_ratio",
    )
    schedule = {
        "type": "constant",
        "warmup_steps": steps,
        "initial_ratio": initial / reached if reached else 0.0,
        "counts_from": "zero",
    }
    return Rate(learning_rate=reached, schedule=schedule)


def _constant(facts: Facts, _span: Span, _warmup_steps: int, peak: float) -> dict[str, Any]:
    if facts.has("lr_end") and facts.number("lr_end", peak) != peak:
        facts.note(
            "lr_scheduler",
            f"ConstantWarmUpLR does not read lr_end = {facts.number('lr_end', peak):g}: the learning rate stays; "
            "CosineWithWarmUpLR and LinearWithWarmUpLR go down",
            "lr_end",
        )
    return {"type": "constant"}


def _linear(_facts: Facts, span: Span, warmup: int, _peak: float) -> dict[str, Any]:
    length = max(1, span.horizon - warmup)
    if span.steps >= span.horizon:
        return {"type": "linear", "decay_steps": length, "final_ratio": 0.0}
    seen = span.steps - warmup
    return {"type": "linear", "decay_steps": seen, "final_ratio": 1 - seen / length}


def _cosine(facts: Facts, span: Span, warmup: int, peak: float) -> dict[str, Any]:
    """Waves over T - W; at `decay_steps`, counted from the run's start, the end is reached at once."""
    length = max(1, span.horizon - warmup)
    end = facts.count("decay_steps", span.horizon)
    seen = max(1, min(end, span.steps) - warmup)
    waves = facts.number("num_cycles", 0.5) * seen / length
    final = _ratio(facts, "lr_end", 0.0, peak)
    return {"type": "cosine", "decay_steps": seen, "num_waves": waves, "final_ratio": final}


def _restarts(facts: Facts, span: Span, warmup: int, peak: float) -> dict[str, Any]:
    length, cycles = max(1, span.horizon - warmup), facts.number("num_cycles", 1.0)
    final = _ratio(facts, "lr_end", 0.0, peak)
    if cycles.is_integer() and span.horizon == span.steps:
        return {"type": "cosine_with_restarts", "num_cycles": int(cycles), "final_ratio": final}
    if span.horizon < span.steps:
        facts.refuse("total_steps", f"ends before the run, which has {span.steps} steps")
    if not (length / cycles).is_integer():
        facts.refuse("num_cycles", f"does not divide the {length} steps after the warm-up")
        return {"type": "constant"}
    return {"type": "warm_restarts", "first_cycle_steps": int(length / cycles), "final_ratio": final}


def _polynomial(facts: Facts, span: Span, warmup: int, peak: float) -> dict[str, Any]:
    length = max(1, facts.count("decay_steps", span.horizon - warmup))
    power, final = facts.number("power", 1.0), _ratio(facts, "lr_end", 1e-7, peak)
    if warmup:
        facts.note(
            "lr_scheduler",
            f"MindFormers jumps to lr_end at step {length}, as it counts the decline from the run's start; here the "
            f"decline goes on to step {warmup + length}",
        )
    if warmup + length <= span.steps:
        return {"type": "polynomial", "power": power, "decay_steps": length, "final_ratio": final}
    if power != 1:
        facts.refuse(
            "schedule", f"declines over {length} steps, more than the run has, with power {power:g}; use power 1"
        )
    seen = span.steps - warmup
    return {"type": "linear", "decay_steps": seen, "final_ratio": 1 - (1 - final) * seen / length}


def _stable(facts: Facts, span: Span, warmup: int, peak: float) -> dict[str, Any]:
    begin = facts.count("decay_start_steps", span.horizon)
    if facts.has("decay_start_ratio"):
        begin = int(span.horizon * facts.number("decay_start_ratio", 1.0))
    length = max(0, span.horizon - max(begin, warmup))
    final = _ratio(facts, "lr_end", 1e-7, peak)
    if not length or begin >= span.steps:
        return {"type": "constant"}
    seen = min(length, span.steps - max(begin, warmup))
    if span.horizon >= span.steps:
        return {"type": "warmup_stable_decay", "decay_steps": seen, "final_ratio": 1 - (1 - final) * seen / length}
    facts.refuse("total_steps", f"ends before the run, which has {span.steps} steps")
    return {"type": "constant"}


def _cool_down(facts: Facts, span: Span, warmup: int, peak: float) -> dict[str, Any]:
    """DeepSeek-V3's: constant, half a cosine, constant, constant."""
    keep = facts.count("keep_steps", 0)
    decay = facts.count("decay_steps", 0)
    if facts.has("decay_ratio"):
        decay = int(span.horizon * facts.number("decay_ratio", 0.0))
    if warmup + keep >= span.steps:
        return {"type": "constant"}
    middle, middle_ratio = facts.count("final_steps", 0), _ratio(facts, "lr_end1", 0.0, peak)
    if warmup + keep + decay > span.steps:
        seen = span.steps - warmup - keep
        facts.refuse("decay_steps", f"ends after the run; it sees {seen} of {decay} steps of the cosine")
    middle = min(middle, max(0, span.steps - warmup - keep - decay))
    final = _ratio(facts, "lr_end2", 0.0, peak)
    lengths = {"stable_steps": keep, "decay_steps": decay, "middle_steps": middle}
    return {"type": "deepseek_v3", **lengths, "middle_ratio": middle_ratio, "final_ratio": final}


def _annealing(facts: Facts, span: Span, _warmup_steps: int, peak: float) -> dict[str, Any]:
    half = facts.count("half_wave", span.horizon)
    return {"type": "cosine_annealing", "half_wave_steps": half, "final_ratio": _ratio(facts, "lr_end", 0.0, peak)}


def _warm_restarts(facts: Facts, span: Span, _warmup_steps: int, peak: float) -> dict[str, Any]:
    first, factor = facts.count("first_cycle", span.horizon), facts.count("cycle_factor", 1)
    final = _ratio(facts, "lr_end", 0.0, peak)
    return {"type": "warm_restarts", "first_cycle_steps": first, "cycle_factor": factor, "final_ratio": final}


_FORMULAS: Mapping[str, Callable[[Facts, Span, int, float], dict[str, Any]]] = {
    "ConstantWarmUpLR": _constant,
    "LinearWithWarmUpLR": _linear,
    "CosineWithWarmUpLR": _cosine,
    "CosineWithRestartsAndWarmUpLR": _restarts,
    "PolynomialWithWarmUpLR": _polynomial,
    "WarmUpStableDecayLR": _stable,
    "ConstantWithCoolDownLR": _cool_down,
    "CosineAnnealingLR": _annealing,
    "CosineAnnealingWarmRestarts": _warm_restarts,
}
