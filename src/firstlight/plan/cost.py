"""What a whole run takes: days, device-hours and money, with the time that failures and checkpoints cost."""

from dataclasses import dataclass

from firstlight.layout.save_interval import young_daly_seconds
from firstlight.plan.forecast import Forecast

_HOUR, _DAY = 3600.0, 86400.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of training on so many tokens."""

    tokens: float
    failures_per_day: float
    save_every_seconds: float
    """By Young and Daly."""
    effective: float
    """The share of time that goes into steps that count: not into saves, lost steps and restarts."""
    seconds: float
    """Of the whole run, effective or not."""
    device_hours: float
    price: float
    """In dollars."""

    @property
    def days(self) -> float:
        return self.seconds / _DAY


def cost_of(plan: Forecast, tokens: float) -> Cost:
    """A failure of any node stops all of them; half of an interval between saves is lost then, on the mean."""
    failures, world = plan.hardware.failures, plan.work.layout.world_size
    nodes = max(1, -(-world // plan.hardware.ranks_per_node))
    between = failures.node_hours.value * _HOUR / nodes
    save = failures.checkpoint_seconds.value
    interval = young_daly_seconds(save, between)
    of_saves = save / (interval + save)
    of_failures = (failures.restart_seconds.value + interval / 2) / between
    effective = max(0.0, (1 - of_saves) * (1 - of_failures))
    seconds = tokens / plan.work.tokens_per_step * plan.step.total / effective if effective else float("inf")
    hours = seconds * world / _HOUR
    return Cost(
        tokens=tokens,
        failures_per_day=_DAY / between,
        save_every_seconds=interval,
        effective=effective,
        seconds=seconds,
        device_hours=hours,
        price=hours * plan.hardware.price_per_hour.value,
    )
