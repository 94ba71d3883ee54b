"""What a configured precision means on a device, and which layers multiply in 8 bits."""

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from firstlight.base.errors import InputError
from firstlight.config.precision import Fp8Precision, Precision, PrecisionChoice
from firstlight.models.decoder import Decoder
from firstlight.models.family import family_of
from firstlight.models.moe import Experts
from firstlight.ops.experts import grouped_linear
from firstlight.ops.fp8 import Fp8Recipe, emulated_product
from firstlight.parallel.arithmetic import Arithmetic
from firstlight.parallel.fp8_layers import use_fp8
from tests.unit.models.tiny_model import deepseek

CPU = torch.device("cpu")


def precision(value: object) -> Precision:
    found: Precision = TypeAdapter(PrecisionChoice).validate_python(value)
    return found


@pytest.mark.parametrize(
    ("value", "product", "parameters"),
    [
        ("fp32", None, None),
        ("bf16", torch.bfloat16, None),
        ({"kind": "bf16", "parameters": "bf16"}, torch.bfloat16, torch.bfloat16),
        ("fp16", torch.float16, None),
        ("fp8", torch.bfloat16, None),
        ({"kind": "fp8", "parameters": "bf16"}, torch.bfloat16, torch.bfloat16),
    ],
)
def test_types_of_each_kind(value: object, product: torch.dtype | None, parameters: torch.dtype | None):
    found = Arithmetic.of(precision(value), CPU)
    assert (found.product_dtype, found.parameter_dtype) == (product, parameters)
    assert (found.fp8 is not None) == isinstance(precision(value), Fp8Precision)


def test_fp8_is_emulated_where_there_is_nothing_else():
    found = Arithmetic.of(precision({"kind": "fp8", "scales": "power_of_two"}), CPU)
    assert found.fp8 is not None
    assert found.fp8.product is emulated_product
    assert found.fp8.has_power_of_two_scales
    assert "emulated exactly" in found.describe()


def test_a_product_that_the_device_has_not_is_refused():
    with pytest.raises(InputError, match=r"precision\.products = scaled.*use auto or emulated"):
        Arithmetic.of(precision({"kind": "fp8", "products": "scaled"}), CPU)


def test_what_multiplies_in_eight_bits():
    model = family_of(config := deepseek(multi_token_prediction={})).build(config)
    assert isinstance(model, Decoder)
    use_fp8(model, Fp8Recipe(product=emulated_product))
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    plain = {name for name in linear if "forward" not in vars(model.get_submodule(name))}
    assert plain == {"head", "mtp.0.projection"}
    assert len(linear) > 10
    experts = [module for module in model.modules() if isinstance(module, Experts)]
    assert experts
    assert all(module.product is not grouped_linear for module in experts)
