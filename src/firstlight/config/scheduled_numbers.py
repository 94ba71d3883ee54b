"""The numbers of a run that schedules move, by their places in the configuration."""

from firstlight.config.model import MoeFeedForward
from firstlight.config.router import SigmoidRouter
from firstlight.config.schedule import ScheduledNumber
from firstlight.config.schema import RunConfig


def learning_rate_of(config: RunConfig) -> ScheduledNumber:
    """The learning rate with its schedule."""
    return ScheduledNumber(value=config.optimizer.learning_rate, schedule=config.lr_scheduler)


def scheduled_numbers(config: RunConfig) -> dict[str, ScheduledNumber]:
    """Every number that changes over the run, the learning rate first."""
    numbers: dict[str, float | ScheduledNumber] = {"optimizer.weight_decay": config.optimizer.weight_decay}
    feed_forward, prediction = config.model.feed_forward, config.model.multi_token_prediction
    if isinstance(feed_forward, MoeFeedForward) and isinstance(feed_forward.router, SigmoidRouter):
        numbers["model.feed_forward.router.bias_update_rate"] = feed_forward.router.bias_update_rate
    if prediction is not None:
        numbers["model.multi_token_prediction.loss_weight"] = prediction.loss_weight
    moving = {name: number for name, number in numbers.items() if isinstance(number, ScheduledNumber)}
    return {"optimizer.learning_rate": learning_rate_of(config), **moving}
