"""Fits a profile to a run: how fast its devices compute, from how long a step really took."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError
from firstlight.config.load import dump_section
from firstlight.plan.forecast import forecast
from firstlight.plan.hardware import Efficiency, Figure, Hardware
from firstlight.plan.work import Work

_STEPS_LEFT_OUT = 1
"""At the beginning of a run, which warm caches up."""
_HALVINGS = 14
_RANGE = (0.05, 20.0)
"""By which factors the speed of computation may change."""


def measured_step_seconds(path: Path) -> float:
    """The median of `step_seconds` in a run's metrics.jsonl. Raises InputError."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"--calibrate {path} cannot be read: {error}; give a run's metrics.jsonl") from None
    found = [seconds for line in lines if (seconds := _step_seconds(line)) is not None]
    if not found:
        raise InputError(f"--calibrate {path} has no step with step_seconds; give the metrics.jsonl of a run")
    return statistics.median(found[_STEPS_LEFT_OUT:] or found)


def _step_seconds(line: Any) -> float | None:
    if not isinstance(line, Mapping) or line.get("kind") != "step":
        return None
    seconds = line.get("step_seconds")
    return float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None


def calibrated(hardware: Hardware, work: Work, step_seconds: float, source: str) -> Hardware:
    """The profile with shares of the peaks and of the memory's bandwidth all changed by one factor, so that a step of
    `work` takes `step_seconds`. Raises InputError where communication alone takes as long."""
    slow, fast = _RANGE
    if not _seconds(hardware, work, fast) <= step_seconds <= _seconds(hardware, work, slow):
        raise InputError(
            f"a step of {step_seconds:.3g} s cannot be explained by the speed of computation on {hardware.name}: "
            f"the plan says {_seconds(hardware, work, 1.0):.3g} s; the configuration or the number of processes is "
            "another, or the links of the profile are"
        )
    for _ in range(_HALVINGS):
        middle = (slow * fast) ** 0.5
        slow, fast = (middle, fast) if _seconds(hardware, work, middle) > step_seconds else (slow, middle)
    return scaled(hardware, (slow * fast) ** 0.5, source)


def _seconds(hardware: Hardware, work: Work, factor: float) -> float:
    return forecast(work, scaled(hardware, factor, "")).step.total


def scaled(hardware: Hardware, factor: float, source: str) -> Hardware:
    """The profile with devices that compute `factor` times as fast."""

    def times(figure: Figure) -> Figure:
        return Figure(value=figure.value * factor, basis="measured", source=source)

    old = hardware.efficiency
    efficiency = Efficiency(
        products={precision: times(figure) for precision, figure in old.products.items()},
        attention_forward=times(old.attention_forward),
        attention_backward=times(old.attention_backward),
        memory=times(old.memory),
    )
    launch = times(hardware.launch_seconds).model_copy(update={"value": hardware.launch_seconds.value / factor})
    return hardware.model_copy(update={"efficiency": efficiency, "launch_seconds": launch})


def as_yaml(hardware: Hardware) -> str:
    """The profile as a file that `--hardware` takes."""
    return dump_section(hardware.model_dump(mode="json"))
