"""The step of DeepSeek-V3 part by part, after the speed of a pair of passes was fitted to its published trace."""

from collections import Counter
from dataclasses import replace

from benchmarks.published.runs import Published
from firstlight.config.pipeline import GivenSplit
from firstlight.layout.schedules import orders_of
from firstlight.plan.calibration import scaled
from firstlight.plan.forecast import forecast, seconds_of_slot
from firstlight.plan.hardware import Hardware
from firstlight.plan.passes import passes_of_stages
from firstlight.plan.work import Work

PUBLISHED = {"forward": 1.13, "bubble": 2.06, "backward": 1.99, "weights": 0.48, "pairs": 13.95, "update": 0.29}
"""Seconds, arXiv:2505.09343, table 4, multi-plane fat tree."""
TRACED_PAIR = 0.129
"""Seconds of a forward and a backward pass through four mixture layers, github.com/deepseek-ai/profile-data."""
_KINDS = {"F": "forward", "B": "backward", "I": "backward", "W": "weights"}


def parts(run: Published) -> dict[str, float]:
    """Seconds of a step by what a rank does, on the mean of all ranks."""
    work = run.work
    assert work is not None, "the layout is published"
    hardware = fitted_to_trace(work, run.hardware)
    plan, passes = forecast(work, hardware), passes_of_stages(work, hardware)
    found: Counter[str] = Counter()
    degree = work.layout.pp
    for order in orders_of(work.pipeline, degree, work.micro_batches):
        for slot in order:
            name = "pairs" if len(slot) == 2 else _KINDS[slot[0].kind]
            found[name] += seconds_of_slot(work, hardware, passes, slot) / degree  # type: ignore[assignment]
    found["bubble"] = plan.step.pipeline - sum(found.values())  # type: ignore[assignment]
    found["update"] = plan.step.update + plan.step.gradients  # type: ignore[assignment]
    return dict(found)


def fitted_to_trace(work: Work, hardware: Hardware) -> Hardware:
    """With the speed at which a pair of passes through four mixture layers takes as long as in the trace."""
    factor = 1.0
    for _ in range(8):
        factor *= traced_pair(work, scaled(hardware, factor, "the trace")) / TRACED_PAIR
    return scaled(hardware, factor, "the trace")


def traced_pair(work: Work, hardware: Hardware) -> float:
    """Seconds of that pair on `hardware`."""
    model = work.model.model_copy(update={"num_hidden_layers": 16, "multi_token_prediction": None})
    pipeline = work.pipeline.model_copy(update={"split": GivenSplit(layers=(4, 4, 4, 4))})
    layout = replace(work.layout, pp=2, dp_shard=64)
    small = replace(work, model=model, pipeline=pipeline, layout=layout, micro_batches=4)
    passes = passes_of_stages(small, hardware)
    middle = next(slot for slot in orders_of(pipeline, 2, 8)[1] if _stages(slot) == (1, 2))
    return seconds_of_slot(small, hardware, passes, middle)


def _stages(slot: tuple) -> tuple[int, ...]:  # type: ignore[type-arg]
    return tuple(action.stage for action in slot)
