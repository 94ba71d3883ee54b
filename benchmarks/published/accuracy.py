"""Forecasts of published runs beside what was measured: as the profiles are, and after fitting each to one run."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.published.runs import Published
from firstlight.plan.calibration import calibrated, scaled
from firstlight.plan.forecast import Forecast, forecast
from firstlight.plan.hardware import Hardware


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A run with its forecast."""

    run: Published
    plan: Forecast | None
    """None where the layout is not published, or no model is described."""
    measured: float | None
    """Seconds of a step."""
    fitted_error: float | None = None
    """After the profile was fitted to another run of the same device and precision."""
    fitted_to: str = ""

    @property
    def error(self) -> float | None:
        """Of the step's seconds."""
        return None if self.plan is None or self.measured is None else self.plan.step.total / self.measured - 1

    @property
    def is_counted(self) -> bool:
        """Whether its error says something about the model of time."""
        return self.error is not None and not self.run.described.doubt

    @property
    def group(self) -> tuple[str, str]:
        """Device and precision."""
        precision = self.plan.work.practice.precision if self.plan is not None else ""
        return self.run.described.hardware, precision

    @property
    def system(self) -> tuple[str, str, str]:
        """Device, precision and the source, whose runs are of one system."""
        return *self.group, self.run.id.split("-")[0]


def compared(runs: Sequence[Published]) -> list[Compared]:
    """Every run, in order."""
    found = []
    for run in runs:
        work = run.work
        plan = None if work is None or run.step_seconds is None else forecast(work, run.hardware)
        found.append(Compared(run=run, plan=plan, measured=run.step_seconds))
    return found


def fitted(runs: Sequence[Compared], *, by_system: bool = False) -> list[Compared]:
    """The same with errors after one run of each device and precision has set its speed: the one whose error is the
    median of its group. With `by_system`, one of each system there."""
    groups: dict[tuple[str, ...], list[Compared]] = defaultdict(list)
    for one in runs:
        if one.is_counted:
            groups[one.system if by_system else one.group].append(one)
    found = {one.run.id: one for one in runs}
    for group in groups.values():
        if len(group) > 1:
            for one in _fitted_group(group):
                found[one.run.id] = one
    return list(found.values())


def _fitted_group(group: Sequence[Compared]) -> list[Compared]:
    middle = sorted(group, key=lambda one: one.error or 0.0)[(len(group) - 1) // 2]
    assert middle.plan is not None, "counted runs have plans"
    assert middle.measured is not None, "and times"
    profile = calibrated(middle.plan.hardware, middle.plan.work, middle.measured, middle.run.id)
    return [replace(one, **_against(one, middle, profile)) for one in group]


def _against(one: Compared, middle: Compared, profile: Hardware) -> dict[str, float | str | None]:
    if one is middle:
        return {"fitted_error": None, "fitted_to": one.run.id}
    assert one.plan is not None, "counted runs have plans"
    assert one.measured is not None, "and times"
    seconds = forecast(one.plan.work, _with_speed(one.plan.hardware, middle.plan, profile)).step.total
    return {"fitted_error": seconds / one.measured - 1, "fitted_to": middle.run.id}


def _with_speed(hardware: Hardware, before: Forecast | None, after: Hardware) -> Hardware:
    """As much faster as the profile `after` is than that of the plan it was fitted to."""
    assert before is not None, "counted runs have plans"
    return scaled(hardware, after.efficiency.memory.value / before.hardware.efficiency.memory.value, "fitted")


def median_error(runs: Sequence[Compared], *, is_fitted: bool = False) -> float:
    """Of the sizes of the errors of counted runs."""
    errors = [one.fitted_error if is_fitted else one.error for one in runs if one.is_counted]
    return statistics.median(abs(error) for error in errors if error is not None)
