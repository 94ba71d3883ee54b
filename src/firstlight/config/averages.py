"""Averages of the weights over the steps: one that is kept beside them, and one that takes their place."""

from typing import Annotated, Literal

from pydantic import Field

from firstlight.config.section import Count, Section

Share = Annotated[float, Field(gt=0, lt=1)]


class EmaConfig(Section):
    """An exponential moving average in host memory, brought up to date after every update (DeepSeek-V3, section
    3.2.3). Training does not see it; `firstlight evaluate --weights ema` does, and `export`."""

    decay: Share = 0.999
    """average <- decay x average + (1 - decay) x weights; it begins with the initial weights."""


class PmaConfig(Section):
    """MindFormers' PmaAdamW: now and then the weights are taken into an average, and when it has enough of them it
    becomes the weights with which training goes on."""

    interval_steps: Count = 1000
    """Updates between two takings (`interleave_step`)."""
    count: Count = 10
    """Weights in an average (`fused_num`)."""
    weighting: Literal["mean", "ema"] = "ema"
    """All alike (`fused_algo: sma`), or with the later ones counting more."""
    alpha: Share = 0.2
    """ema: average <- (1 - alpha) x average + alpha x weights (`ema_alpha`). The first weights are taken as they are:
    MindFormers begins with zeros, and so shrinks all weights by (1 - alpha) ** count."""


class AveragesConfig(Section):
    """Which averages there are."""

    ema: EmaConfig | None = None
    pma: PmaConfig | None = None
