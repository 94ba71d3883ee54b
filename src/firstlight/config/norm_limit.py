"""From which gradient norm on a step is skipped: a number, or a multiple of what is usual in this run."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from firstlight.config.section import Count, Positive, Section

Ratio = Annotated[float, Field(gt=1)]


class FixedNormLimit(Section):
    """A norm, whatever the run is like."""

    kind: Literal["fixed"] = "fixed"
    norm: Positive


class MedianNormLimit(Section):
    """A multiple of the median of the last norms."""

    kind: Literal["median"] = "median"
    ratio: Ratio = 5.0
    window: Count = 128
    """Steps over which the median is taken."""
    after_steps: Count = 32
    """Nothing is skipped before so many norms are known."""


class AverageNormLimit(Section):
    """A multiple of the exponential moving average of the norms."""

    kind: Literal["average"] = "average"
    ratio: Ratio = 5.0
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.98
    after_steps: Count = 32
    """Nothing is skipped before so many norms are known."""


AnyNormLimit = FixedNormLimit | MedianNormLimit | AverageNormLimit


def _with_kind(value: Any) -> Any:
    return {"kind": "median", **value} if isinstance(value, dict) else value


NormLimitChoice = Annotated[AnyNormLimit, Field(discriminator="kind"), BeforeValidator(_with_kind)]
"""One of the limits; `kind` says which, and is median where it is not written."""
