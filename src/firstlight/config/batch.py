"""How many sequences a step trains on: given in sequences or in tokens, perhaps fewer at the start of the run."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag, model_validator

from firstlight.config.schedule import Length
from firstlight.config.section import Count, Section


class BatchRamp(Section):
    """The batch grows from `start` to its size, in proportion to what was trained on, then stays."""

    start: Count
    """In the unit of the batch: sequences, or tokens."""
    increment: Count | None = None
    """Grow by so much at a time, each size for an equal share of `over` (Megatron-LM's rampup_batch_size); null: as
    evenly as whole sequences allow."""
    over: Length
    """How long it grows: a number of steps, `{tokens: N}` or `{samples: N}`."""

    def value_at(self, consumed: int, over: int, final: int) -> int:
        """The batch when `consumed` of the `over` units of the ramp are behind it."""
        if consumed >= over:
            return final
        if self.increment is None:
            return self.start + (final - self.start) * consumed // over
        num_increments = (final - self.start) // self.increment
        return self.start + self.increment * (consumed * num_increments // over)


def _require_room(ramp: BatchRamp | None, final: int) -> None:
    if ramp is None:
        return
    if ramp.start >= final:
        raise ValueError(f"the ramp starts at {ramp.start}, and the batch is {final}; start below it, or leave it out")
    if ramp.increment is not None and (final - ramp.start) % ramp.increment:
        raise ValueError(
            f"ramp.increment = {ramp.increment} does not divide the way from {ramp.start} to {final}; use a divisor of "
            f"{final - ramp.start}"
        )


class SampleBatch(Section):
    """So many sequences in each step."""

    samples: Count
    ramp: BatchRamp | None = None

    @property
    def final(self) -> int:
        """The size after the ramp, in the unit of the batch."""
        return self.samples

    def sequences(self, value: int, _sequence_length: int) -> int:
        """`value` of the batch in sequences."""
        return value

    @model_validator(mode="after")
    def _ramp_goes_up(self) -> "SampleBatch":
        _require_room(self.ramp, self.samples)
        return self


class TokenBatch(Section):
    """So many tokens in each step, rounded down to whole sequences, one at least: longer sequences are fewer."""

    tokens: Count
    ramp: BatchRamp | None = None

    @property
    def final(self) -> int:
        """The size after the ramp, in the unit of the batch."""
        return self.tokens

    def sequences(self, value: int, sequence_length: int) -> int:
        """`value` of the batch in sequences."""
        return max(1, value // sequence_length)

    @model_validator(mode="after")
    def _ramp_goes_up(self) -> "TokenBatch":
        _require_room(self.ramp, self.tokens)
        return self


def _batch_label(value: Any) -> str:
    if isinstance(value, TokenBatch) or (isinstance(value, dict) and "tokens" in value):
        return "batch_in_tokens"
    return "batch_in_samples" if isinstance(value, dict | SampleBatch) else "batch_as_number"


GlobalBatch = Annotated[
    Annotated[Count, Tag("batch_as_number")]
    | Annotated[SampleBatch, Tag("batch_in_samples")]
    | Annotated[TokenBatch, Tag("batch_in_tokens")],
    Discriminator(_batch_label),
]
"""A number of sequences, or a batch in sequences or tokens with a ramp."""

BATCH_LABELS = ("batch_as_number", "batch_in_samples", "batch_in_tokens")
"""What pydantic puts into the place of a fault beside the keys that the user wrote."""


def batch_of(given: int | SampleBatch | TokenBatch) -> SampleBatch | TokenBatch:
    """The batch, where it was given as a number too."""
    return SampleBatch(samples=given) if isinstance(given, int) else given
