"""The phases of a run: what is otherwise from given points on."""

from typing import Annotated

from pydantic import Field, model_validator

from firstlight.config.rope import Llama3Scaling, YarnScaling
from firstlight.config.schedule import Length
from firstlight.config.section import Count, Positive, Section


class Phase(Section):
    """From `begins_at` on the run is otherwise; what is null stays as it was in the phase before.

    It begins with the first step before which so much was trained on. All steps of a phase have one sequence length.
    """

    begins_at: Length
    """A number of steps, `{tokens: N}` or `{samples: N}`, counted from the start of the run."""
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    """Of the sources of training data, in their order."""
    sequence_length: Count | None = None
    rope_theta: Positive | None = None
    """The base of the rotary position embedding."""
    rope_scaling: Annotated[YarnScaling | Llama3Scaling, Field(discriminator="kind")] | None = None
    """How the context is stretched from here on: the rotary tables, and with YaRN attention's temperature."""

    @model_validator(mode="after")
    def _changes_something(self) -> "Phase":
        if all(getattr(self, name) is None for name in type(self).model_fields if name != "begins_at"):
            raise ValueError("changes nothing; give weights, sequence_length, rope_theta or rope_scaling")
        return self
