"""Rotary position embedding in the configuration: its base, its pairs of channels, how the context is stretched."""

from typing import Annotated, Literal

from pydantic import Field

from firstlight.config.section import Count, NotNegative, Positive, Section


class YarnScaling(Section):
    """YaRN (arXiv:2309.00071) as DeepSeek uses it: stretches the context to `factor` times the original."""

    kind: Literal["yarn"] = "yarn"
    factor: Positive
    original_max_position_embeddings: Count
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    mscale: NotNegative = 1.0
    mscale_all_dim: NotNegative = 0.0
    truncate: bool = True
    """Whether the ramp between kept and stretched pairs begins and ends at whole pairs."""


class Llama3Scaling(Section):
    """Llama 3.1's frequency-dependent scaling."""

    kind: Literal["llama3"] = "llama3"
    factor: Positive
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_max_position_embeddings: Count


RopeLayout = Literal["interleaved", "half_split"]
"""Which channels rotate together: neighbours, or one of each half."""


class Rope(Section):
    """Rotary position embedding of latent attention, which has channels of its own for it."""

    theta: Positive = 10000.0
    layout: RopeLayout = "interleaved"
    """Which channels rotate together: neighbours (`interleaved`), or one of each half (`half_split`)."""
    scaling: Annotated[YarnScaling | Llama3Scaling, Field(discriminator="kind")] | None = None
    """Pre-training at the original length wants null; YaRN is for the phases that extend the context."""


class HeadRope(Rope):
    """Rotary position embedding over the first channels of each head."""

    layout: RopeLayout = "half_split"
    """Which channels rotate together: neighbours (`interleaved`), or one of each half (`half_split`)."""
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of a head's channels that rotates; the others carry no position."""
