"""When a run goes back to an earlier checkpoint by itself, and what it leaves out then."""

from typing import Annotated

from pydantic import Field

from firstlight.config.schedule import Steps
from firstlight.config.section import Count, Positive, Section


class SpikeConfig(Section):
    """What a spike of the loss is."""

    deviations: Positive = 6
    """A loss that lies so many standard deviations above the mean of those before it is a spike."""
    window: Annotated[int, Field(ge=8)] = 128
    """Steps before it that mean and deviation are of; there are no spikes until there are so many. Spikes do not count,
    and another sequence length, or another phase, begins a window of its own."""
    for_steps: Count = 5
    """Consecutive spikes after which the run rewinds."""


class RewindConfig(Section):
    """The answer to trouble that does not end: updates that are skipped, or spikes of the loss, step after step. The
    run goes back to the newest healthy checkpoint before the first bad step and leaves out the samples of the bad
    ones."""

    times: Steps = 3
    """How often in a run; then, or with 0, such trouble ends the run."""
    steps_before: Steps = 0
    """So many steps before the first bad one count as bad too, where a checkpoint before them is still there."""
    steps_after: Steps = 0
    """The samples of so many steps after the last bad one are left out too."""
    spike: SpikeConfig | None = None
    """Which losses are spikes; null: none are. Not for data in an order that changes on purpose, such as `sequential`:
    what is new there is no spike."""
