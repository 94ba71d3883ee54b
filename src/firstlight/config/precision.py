"""The precision of a run: in which types parameters are gathered, products are computed and gradients are summed."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from firstlight.config.section import Count, Section

ParameterType = Literal["fp32", "bf16"]
Fp8Products = Literal["auto", "emulated", "scaled"]


class Fp32Precision(Section):
    """Everything in fp32."""

    kind: Literal["fp32"] = "fp32"


class Bf16Precision(Section):
    """Matrix products in bfloat16 (autocast). Parameters and optimizer state are kept in fp32."""

    kind: Literal["bf16"] = "bf16"
    parameters: ParameterType = "fp32"
    """What layers compute with: the fp32 parameters, cast product by product, or bf16 copies that are gathered for them
    from fp32 master weights. Gradients of either are summed in fp32 or more, and the stream between layers is of this
    type."""


class Fp16Precision(Section):
    """Matrix products in float16 (autocast), with a loss scale that keeps small gradients in its range. A step whose
    gradients are not finite is skipped by all ranks and lowers the scale."""

    kind: Literal["fp16"] = "fp16"
    initial_scale: Annotated[float, Field(ge=1, le=2.0**120)] = 65536.0
    growth_factor: Annotated[float, Field(gt=1, le=1024)] = 2.0
    growth_steps: Count = 2000
    """Steps in a row with finite gradients after which the scale grows."""
    backoff_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    min_scale: Annotated[float, Field(ge=1)] = 1.0
    """The scale is never lowered below this."""


class Fp8Precision(Section):
    """DeepSeek-V3's (arXiv:2412.19437, section 3.3): the three products of every linear layer and expert in E4M3 with
    scales per tile, all else as bf16. Embedding, head, norms, router, attention itself and the projection of
    multi-token prediction have no part in it."""

    kind: Literal["fp8"] = "fp8"
    parameters: ParameterType = "fp32"
    """As for bf16."""
    scales: Literal["fp32", "power_of_two"] = "fp32"
    """power_of_two: rounded up to one (ue8m0)."""
    products: Fp8Products = "auto"
    """scaled: torch's scaled matrix product, on devices that have it for these tiles; emulated: the exact emulation;
    auto: scaled where the device has it."""


Precision = Fp32Precision | Bf16Precision | Fp16Precision | Fp8Precision


def _by_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


PrecisionChoice = Annotated[Precision, Field(discriminator="kind"), BeforeValidator(_by_name)]
"""One of the kinds; the name alone stands for a kind with its defaults."""

PRODUCT_TYPES: Mapping[str, Literal["bf16", "fp16"] | None] = {
    "fp32": None,
    "bf16": "bf16",
    "fp16": "fp16",
    "fp8": "bf16",
}
"""In which type products run that are not FP8's, by the kind; None: that of the parameters."""


def parameter_type(precision: Precision) -> ParameterType:
    """What layers compute with."""
    return precision.parameters if isinstance(precision, Bf16Precision | Fp8Precision) else "fp32"
