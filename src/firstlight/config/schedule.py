"""How a number of the training recipe changes over the run: the kinds of schedules."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from firstlight.config.section import Count, Fraction, NotNegative, Positive, Section

Steps = Annotated[int, Field(ge=0)]


class TokenLength(Section):
    """As many steps as it takes to train on so many tokens, rounded up."""

    tokens: Count


class SampleLength(Section):
    """As many steps as it takes to train on so many sequences, rounded up."""

    samples: Count


def _length_label(value: Any) -> str:
    if isinstance(value, SampleLength) or (isinstance(value, dict) and "samples" in value):
        return "in_samples"
    return "in_tokens" if isinstance(value, dict | TokenLength) else "in_steps"


Length = Annotated[
    Annotated[Steps, Tag("in_steps")]
    | Annotated[TokenLength, Tag("in_tokens")]
    | Annotated[SampleLength, Tag("in_samples")],
    Discriminator(_length_label),
]
"""A number of steps, given as such or by the tokens or sequences that fill them."""


class WarmedUp(Section):
    """What schedules with a linear warm-up have alike."""

    warmup_steps: Length = 0
    initial_ratio: Fraction = 0.0
    """Where warm-up begins."""
    counts_from: Literal["one", "zero"] = "one"
    """one: the first update of a warm-up moves already, and decays end with the last update. zero: update t is at t, as
    in MindFormers and torch: the first one is at initial_ratio, and decays would end one update after the last."""


class Decaying(WarmedUp):
    """What schedules that go down once have alike, too."""

    decay_steps: Length | None = None
    """Steps after the warm-up; null takes all that are left. Afterwards the ratio stays `final_ratio`."""


class ConstantSchedule(WarmedUp):
    """Linear warm-up, then the value as given."""

    type: Literal["constant"] = "constant"


class LinearSchedule(Decaying):
    """Linear warm-up, then linearly down to `final_ratio`."""

    type: Literal["linear"] = "linear"
    final_ratio: Fraction = 0.0


class CosineSchedule(Decaying):
    """Linear warm-up, then half a cosine down to `final_ratio` of the value at the last step."""

    type: Literal["cosine"] = "cosine"
    num_waves: Positive = 0.5
    """Waves of the cosine; more than a half go up again."""
    final_ratio: Fraction = 0.1


class CosineWithRestartsSchedule(WarmedUp):
    """Linear warm-up, then `num_cycles` half cosines of one length over the rest of the run, each from the top."""

    type: Literal["cosine_with_restarts"] = "cosine_with_restarts"
    num_cycles: Count = 1
    final_ratio: Fraction = 0.0


class WarmRestartsSchedule(WarmedUp):
    """SGDR (arXiv:1608.03983, equation 5): half cosines from the top, each `cycle_factor` times as long as the last."""

    type: Literal["warm_restarts"] = "warm_restarts"
    first_cycle_steps: Length
    cycle_factor: Count = 1
    final_ratio: Fraction = 0.0


class CosineAnnealingSchedule(WarmedUp):
    """A cosine that goes down in `half_wave_steps` and up again in as many, for ever."""

    type: Literal["cosine_annealing"] = "cosine_annealing"
    half_wave_steps: Length
    final_ratio: Fraction = 0.0


class PolynomialSchedule(Decaying):
    """Linear warm-up, then (1 - progress) to the `power`, down to `final_ratio`."""

    type: Literal["polynomial"] = "polynomial"
    power: Positive = 1.0
    final_ratio: Fraction = 0.0


class WarmupStableDecaySchedule(WarmedUp):
    """Linear warm-up, constant, and over the last `decay_steps` linearly down to `final_ratio`."""

    type: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    decay_steps: Length = 0
    final_ratio: Fraction = 0.0


class DeepseekV3Schedule(WarmedUp):
    """DeepSeek-V3's (arXiv:2412.19437, section 4.2): linear warm-up, constant, a half cosine down to `middle_ratio`,
    constant there, and the rest at `final_ratio`."""

    type: Literal["deepseek_v3"] = "deepseek_v3"
    stable_steps: Length
    """Steps at the value as given, after the warm-up."""
    decay_steps: Length
    middle_ratio: Fraction = 0.1
    middle_steps: Length
    final_ratio: Fraction = 7.3 / 220


class Piece(Section):
    """A stretch of steps with one ratio."""

    steps: Length
    ratio: NotNegative


class PiecewiseSchedule(Section):
    """Constant stretches, one after the other, then `final_ratio`."""

    type: Literal["piecewise"] = "piecewise"
    pieces: tuple[Piece, ...]
    final_ratio: NotNegative


AnySchedule = (
    ConstantSchedule
    | LinearSchedule
    | CosineSchedule
    | CosineWithRestartsSchedule
    | WarmRestartsSchedule
    | CosineAnnealingSchedule
    | PolynomialSchedule
    | WarmupStableDecaySchedule
    | DeepseekV3Schedule
    | PiecewiseSchedule
)
Schedule = Annotated[AnySchedule, Field(discriminator="type")]


class ScheduledNumber(Section):
    """A number that a schedule multiplies."""

    value: NotNegative
    schedule: Schedule


def _number_label(value: Any) -> str:
    return "as_schedule" if isinstance(value, dict | ScheduledNumber) else "as_number"


Scheduled = Annotated[
    Annotated[NotNegative, Tag("as_number")] | Annotated[ScheduledNumber, Tag("as_schedule")],
    Discriminator(_number_label),
]
"""A number for the whole run, or one that a schedule multiplies."""

Now = Callable[[float | ScheduledNumber], float]
"""What a number of the configuration is for the step to come."""


def unscheduled(number: float | ScheduledNumber) -> float:
    """A number that is the same at every step; a scheduled one is an error here."""
    if isinstance(number, ScheduledNumber):
        raise TypeError(f"a schedule of type {number.schedule.type}, where no step is known")
    return number


UNION_LABELS = ("in_steps", "in_tokens", "in_samples", "as_number", "as_schedule")
"""What pydantic puts into the place of a fault beside the keys that the user wrote."""
