"""Facts across optimizer, schedules and the rest of a run."""

from collections.abc import Iterator

from firstlight.config.broken import Broken
from firstlight.config.model import GroupedQueryAttention, MultiHeadLatentAttention
from firstlight.config.optimizer import MuonConfig
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import timeline_of

_PHASES = ("warmup_steps", "stable_steps", "decay_steps", "middle_steps")


def schedule_fits_the_steps(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Warm-up and decay happen within the run."""
    schedule, steps = config.lr_scheduler, config.training.steps
    phases = {name: getattr(schedule, name, None) for name in _PHASES}
    given = {name: length for name, length in phases.items() if length is not None}
    lengths = dict(zip(given, timeline_of(config).consecutive(list(given.values())), strict=True))
    if sum(lengths.values()) > steps:
        first = next(iter(lengths))
        shown = " and ".join(f"{name} = {length}" for name, length in lengths.items() if length or name == first)
        yield Broken(
            path=("lr_scheduler", "warmup_steps"),
            message=f"lr_scheduler: {shown} take more than training.steps = {steps}; use at most {steps} together",
        )


def heads_can_be_split(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Only latent attention has projections up to the heads."""
    optimizer, attention = config.optimizer, config.model.attention
    if isinstance(optimizer, MuonConfig) and optimizer.splits_heads:
        if isinstance(attention, MultiHeadLatentAttention):
            return
        yield Broken(
            path=("optimizer", "splits_heads"),
            message=f"optimizer.splits_heads = true does not go with model.attention.kind = {attention.kind}; "
            "use false, or kind mla",
        )


def heads_can_be_clipped(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """A norm after the projections of queries and keys undoes what scales them."""
    attention = config.model.attention
    if config.optimizer.qk_clip is None or not isinstance(attention, GroupedQueryAttention):
        return
    if attention.qk_norm != "none":
        yield Broken(
            path=("optimizer", "qk_clip"),
            message=f"optimizer.qk_clip has no effect with model.attention.qk_norm = {attention.qk_norm}, which limits "
            "logits itself; use null, or qk_norm none",
        )


RECIPE_RULES = (schedule_fits_the_steps, heads_can_be_split, heads_can_be_clipped)
