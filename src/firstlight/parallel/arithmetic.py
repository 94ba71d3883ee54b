"""In which types a model computes: the configured precision, as this device has it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from firstlight.base.errors import InputError
from firstlight.config.precision import PRODUCT_TYPES, Fp8Precision, Precision, parameter_type
from firstlight.ops.fp8 import Fp8Recipe, Product, emulated_product
from firstlight.ops.fp8_scaled import scaled_product
from firstlight.parallel.device import has_scaled_product

_DTYPES: Mapping[str | None, torch.dtype | None] = {"bf16": torch.bfloat16, "fp16": torch.float16, None: None}


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """`product_dtype`: of matrix products (autocast), if not that of the parameters. `parameter_dtype`: in which layers
    have parameters, and the stream between them is, if not in that in which they are kept. `fp8`: how linear layers
    and experts multiply, if in 8 bits."""

    product_dtype: torch.dtype | None = None
    parameter_dtype: torch.dtype | None = None
    fp8: Fp8Recipe | None = None

    @classmethod
    def of(cls, precision: Precision, device: torch.device) -> "Arithmetic":
        """Raises InputError when a product is asked for that the device does not have."""
        kind = parameter_type(precision)
        fp8 = None
        if isinstance(precision, Fp8Precision):
            rounds_up = precision.scales == "power_of_two"
            fp8 = Fp8Recipe(product=_product(precision, device), has_power_of_two_scales=rounds_up)
        return cls(
            product_dtype=_DTYPES[PRODUCT_TYPES[precision.kind]],
            parameter_dtype=_DTYPES[kind] if kind == "bf16" else None,
            fp8=fp8,
        )

    def describe(self) -> str:
        """In words, for the log."""
        words = [] if self.parameter_dtype is None else ["bf16 parameters gathered from fp32 master weights"]
        if self.fp8 is not None:
            how = "emulated exactly" if self.fp8.product is emulated_product else "by torch's scaled matrix product"
            words.append(f"8-bit products {how}")
        return ", ".join(words)


AS_KEPT = Arithmetic()
"""Everything in the type in which parameters are kept."""


def _product(precision: Fp8Precision, device: torch.device) -> Product:
    is_there = has_scaled_product(device)
    if precision.products == "scaled" and not is_there:
        raise InputError(
            f"training.precision.products = scaled, but this device ({device.type}) has no scaled matrix product of "
            "128-wide tiles (CUDA 12.9 or newer on compute capability 9.0 has); use auto or emulated"
        )
    return scaled_product if is_there and precision.products != "emulated" else emulated_product
