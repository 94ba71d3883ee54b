"""Bytes of parameters, by the precision."""

import pytest

from firstlight.config.precision import (
    Bf16Precision,
    Fp8Precision,
    Fp16Precision,
    Fp32Precision,
    Precision,
)
from firstlight.layout.number_bytes import NumberBytes


@pytest.mark.parametrize(
    ("precision", "gathered"),
    [
        (Fp32Precision(), 4),
        (Bf16Precision(), 4),
        (Fp16Precision(), 4),
        (Fp8Precision(), 4),
        (Bf16Precision(parameters="bf16"), 2),
        (Fp8Precision(parameters="bf16"), 2),
    ],
)
def test_weights_are_kept_in_fp32_and_gathered_as_layers_see_them(precision: Precision, gathered: int):
    assert NumberBytes.of(precision) == NumberBytes(kept=4, gathered=gathered)
