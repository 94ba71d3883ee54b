"""torch's scaled product, as far as it goes without the device that has it: shapes and memory layouts of what it is
given, which torch checks without computing. On such a device, the numbers."""

import pytest
import torch

from firstlight.ops.fp8 import Fp8Recipe, emulated_product
from firstlight.ops.fp8_scaled import scaled_product
from firstlight.parallel.device import has_scaled_product

RECIPE = Fp8Recipe(product=scaled_product)
SHAPES = [(5, 200, 300), (128, 128, 128), (130, 576, 257), (0, 128, 8), (7, 0, 8)]


@pytest.mark.parametrize(("rows", "width", "columns"), SHAPES)
def test_torch_takes_what_it_is_given(rows: int, width: int, columns: int):
    with torch.device("meta"):
        a, b = torch.empty(rows, width), torch.empty(columns, width)
    for other in (RECIPE.in_blocks(b), RECIPE.in_tiles(b)):
        out = scaled_product(RECIPE.in_tiles(a), other)
        assert (out.shape, out.dtype) == ((rows, columns), torch.float32)


@pytest.mark.parametrize(("rows", "width", "columns"), SHAPES)
def test_numbers_are_near_the_definition(rows: int, width: int, columns: int):
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is None or not has_scaled_product(device):
        pytest.skip("needs CUDA 12.9 or newer and a device of compute capability 9.0")
    a, b = torch.randn(rows, width, device=device), torch.randn(columns, width, device=device)
    for other in (RECIPE.in_blocks(b), RECIPE.in_tiles(b)):
        found, exact = scaled_product(RECIPE.in_tiles(a), other), emulated_product(RECIPE.in_tiles(a), other)
        assert torch.allclose(found, exact, rtol=1e-3, atol=1e-3 * max(width, 1) ** 0.5)
