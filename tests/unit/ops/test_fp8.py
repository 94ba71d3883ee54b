"""8-bit numbers in tiles and their products, against a definition of loops over tiles, to the bit."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from firstlight.ops.deferred import WeightGradients
from firstlight.ops.fp8 import Fp8Recipe, Quantised, dequantised, emulated_product, quantised, transposed
from firstlight.ops.fp8_linear import fp8_grouped_linear, fp8_linear

Array = NDArray[np.float32]

RECIPES = {
    "fp32": Fp8Recipe(product=emulated_product),
    "power_of_two": Fp8Recipe(product=emulated_product, has_power_of_two_scales=True),
}
SHAPES = [(1, 1, 1), (3, 128, 5), (130, 200, 257), (128, 384, 128), (40, 576, 129)]
"""Rows, contracted width, output width; most of them end within a tile."""


def e4m3_numbers() -> Array:
    """The finite numbers that are not negative, in the order of their codes."""
    codes = [(code >> 3, code & 7) for code in range(127)]
    return np.array([m * 2.0**-9 if e == 0 else (8 + m) * 2.0 ** (e - 10) for e, m in codes], dtype=np.float32)


def rounded(x: Array, numbers: Array) -> Array:
    """To the nearest; of two as near, the one of an even code."""
    size = np.abs(x.astype(np.float64))
    above = np.searchsorted(numbers, size).clip(1, len(numbers) - 1)
    up, down = numbers[above] - size, size - numbers[above - 1]
    code = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, above - 1)
    return np.copysign(numbers[code], x)


def scale_of(tile: Array, *, to_power_of_two: bool) -> np.float32:
    amax = max(np.abs(tile).max(), np.float32(1e-4))
    scale = np.float32(amax) / np.float32(448)
    return np.float32(2.0 ** np.ceil(np.log2(np.float64(scale)))) if to_power_of_two else scale


def by_definition(x: Array, rows: int, *, to_power_of_two: bool) -> tuple[Array, Array]:
    """Values and scales, one tile after another."""
    numbers, values = e4m3_numbers(), np.zeros_like(x)
    scales = np.zeros((-(-x.shape[0] // rows), -(-x.shape[1] // 128)), dtype=np.float32)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            where = (slice(i * rows, (i + 1) * rows), slice(j * 128, (j + 1) * 128))
            scales[i, j] = scale_of(x[where], to_power_of_two=to_power_of_two)
            values[where] = rounded(x[where] / scales[i, j], numbers)
    return values, scales


def product_by_definition(a: tuple[Array, Array], b: tuple[Array, Array], b_rows: int) -> Array:
    """Per tile of the contracted width: exact sum, one rounding, scales, fp32 addition."""
    (a_values, a_scales), (b_values, b_scales) = a, b
    out = np.zeros((a_values.shape[0], b_values.shape[0]), dtype=np.float32)
    for j in range(a_scales.shape[1]):
        part = slice(j * 128, (j + 1) * 128)
        for n in range(out.shape[1]):
            sums = (a_values[:, part].astype(np.float64) @ b_values[n, part].astype(np.float64)).astype(np.float32)
            out[:, n] = out[:, n] + sums * (a_scales[:, j] * b_scales[n // b_rows, j])
    return out


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Numbers whose sizes differ from row to row and column to column, a zero tile among them."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=source) * 10.0 ** torch.randint(-3, 3, shape[:-1], generator=source)[..., None]
    x = x * 2.0 ** torch.randint(-4, 4, shape[-1:], generator=source)
    x[..., 0, : min(128, shape[-1] - 1)] = 0
    return x


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("rows", [1, 128])
@pytest.mark.parametrize("shape", [(1, 1), (3, 130), (131, 257), (128, 128)])
def test_tiles_are_quantised_as_defined(shape: tuple[int, int], rows: int, kind: str):
    x, to_power_of_two = drawn(*shape), kind == "power_of_two"
    values, scales = by_definition(x.numpy(), rows, to_power_of_two=to_power_of_two)
    found = quantised(x, rows=rows, to_power_of_two=to_power_of_two)
    assert np.array_equal(found.values_mk.float().numpy(), values)
    assert np.array_equal(found.scales.numpy(), scales)
    spread = scales.repeat(rows, 0)[: shape[0]].repeat(128, 1)[:, : shape[1]]
    assert np.array_equal(dequantised(found).numpy(), values * spread)


def definition(x: Tensor, rows: int, recipe: Fp8Recipe) -> tuple[Array, Array]:
    return by_definition(x.numpy(), rows, to_power_of_two=recipe.has_power_of_two_scales)


def retiled(x: tuple[Array, Array], recipe: Fp8Recipe) -> tuple[Array, Array]:
    """The transpose of what 1 x 128 tiles hold, in such tiles again."""
    values, scales = x
    whole = values * scales.repeat(128, 1)[:, : values.shape[1]]
    return by_definition(np.ascontiguousarray(whole.T), 1, to_power_of_two=recipe.has_power_of_two_scales)


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_three_products_are_as_defined(shape: tuple[int, int, int], kind: str):
    (n, d, o), recipe = shape, RECIPES[kind]
    x, weight, grad = drawn(n, d), drawn(o, d, seed=1), drawn(n, o, seed=2)
    x.requires_grad_()
    weight.requires_grad_()
    out = fp8_linear(x, weight, None, recipe)
    out.backward(grad)
    rows, blocks = definition(x.detach(), 1, recipe), definition(weight.detach(), 128, recipe)
    assert np.array_equal(out.detach().numpy(), product_by_definition(rows, blocks, 128))
    turned = (blocks[0].T, blocks[1].T)
    assert x.grad is not None
    assert np.array_equal(x.grad.numpy(), product_by_definition(definition(grad, 1, recipe), turned, 128))
    tiles = definition(grad.T.contiguous(), 1, recipe), retiled(rows, recipe)
    assert weight.grad is not None
    assert np.array_equal(weight.grad.numpy(), product_by_definition(*tiles, 1))


def test_experts_are_linear_layers_of_their_own():
    recipe, ends = RECIPES["fp32"], torch.tensor([130, 130, 137], dtype=torch.int32)
    rows, weights, grad = drawn(137, 144), drawn(3, 136, 144, seed=1), drawn(137, 136, seed=2)
    rows.requires_grad_()
    weights.requires_grad_()
    out = fp8_grouped_linear(rows, weights, ends, recipe=recipe)
    out.backward(grad)
    assert rows.grad is not None
    assert weights.grad is not None
    for expert, part in ((0, slice(0, 130)), (2, slice(130, 137))):
        x, weight = rows.detach()[part].requires_grad_(), weights.detach()[expert].requires_grad_()
        alone = fp8_linear(x, weight, None, recipe)
        alone.backward(grad[part])
        assert torch.equal(out[part], alone)
        assert torch.equal(rows.grad[part], x.grad)
        assert torch.equal(weights.grad[expert], weight.grad)
    assert not weights.grad[1].any()


@pytest.mark.parametrize("name", RECIPES)
def test_gradients_of_a_mean_over_many_tokens_are_as_exact_as_others(name: str):
    x, weight, grad = drawn(40, 144).requires_grad_(), drawn(136, 144, seed=1).requires_grad_(), drawn(40, 136, seed=2)
    out = fp8_linear(x, weight, None, RECIPES[name])
    large = torch.autograd.grad(out, (x, weight), grad, retain_graph=True)
    small = torch.autograd.grad(out, (x, weight), grad * 2.0**-40)
    for one, other in zip(large, small, strict=True):
        assert one.any()
        assert torch.equal(other, one * 2.0**-40)


def test_no_rows_at_all():
    weights = drawn(2, 8, 16).requires_grad_()
    rows = torch.zeros(0, 16, requires_grad=True)
    fp8_grouped_linear(rows, weights, torch.zeros(2, dtype=torch.int32), recipe=RECIPES["fp32"]).sum().backward()
    assert weights.grad is not None
    assert not weights.grad.any()
    assert rows.grad is not None


def test_gradients_of_weights_can_wait():
    x, weight = drawn(5, 130), drawn(7, 130, seed=1).requires_grad_()
    at_once = torch.autograd.grad(fp8_linear(x, weight, None, RECIPES["fp32"]).sum(), weight)[0]
    store = WeightGradients()
    fp8_linear(x.requires_grad_(), weight, None, RECIPES["fp32"], store).sum().backward()
    assert weight.grad is None
    store.take()()
    assert torch.equal(weight.grad, at_once)


def test_errors_are_those_of_four_bits():
    recipe = RECIPES["fp32"]
    source = torch.Generator().manual_seed(3)
    a, b = torch.randn(256, 1024, generator=source), torch.randn(192, 1024, generator=source)
    found = emulated_product(recipe.in_tiles(a), recipe.in_blocks(b)).double()
    exact = a.double() @ b.double().T
    # 3.7 % as measured for such numbers in torch's own fake quantisation.
    assert 0.03 < float((found - exact).norm() / exact.norm()) < 0.04
    # Half a unit in the last of four bits each, or half the smallest number times the scale.
    size = a.abs().double() @ b.abs().double().T
    tiny = 2.0**-10 * 6 / 448 * (a.abs().sum(1)[:, None] + b.abs().sum(1)).double()
    assert bool(((found - exact).abs() <= (2 * 2.0**-4 + 2.0**-8) * size + tiny).all())


def test_sums_of_long_rows_are_as_exact_as_fp32():
    recipe, width = RECIPES["fp32"], 4096
    a = recipe.in_tiles(torch.rand(16, width, generator=torch.Generator().manual_seed(4)))
    b = recipe.in_blocks(torch.rand(16, width, generator=torch.Generator().manual_seed(5)))
    exact = dequantised(a).double() @ dequantised(b).double().T
    worst = float(((emulated_product(a, b).double() - exact).abs() / exact).max())
    # Tensor cores without promotion: up to 2 % at this width (arXiv:2412.19437, section 3.3.2).
    assert worst < 1e-6


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float):
    x = drawn(4, 130)
    x[1, 3] = bad
    out = fp8_linear(x, drawn(6, 130, seed=1), None, RECIPES["fp32"])
    assert torch.isfinite(out).all(1).tolist() == [True, False, True, True]


def test_inputs_wait_in_eight_bits():
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        fp8_linear(drawn(256, 256).requires_grad_(), drawn(8, 256).requires_grad_(), None, RECIPES["fp32"])
    assert {(tensor.dtype, tuple(tensor.shape)) for tensor in kept} == {
        (torch.float8_e4m3fn, (256, 256)),
        (torch.float32, (256, 2)),
    }


def test_results_have_the_type_of_autocast():
    x, weight = drawn(4, 130), drawn(6, 130, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert fp8_linear(x, weight, None, RECIPES["fp32"]).dtype == torch.bfloat16
    assert fp8_linear(x.bfloat16(), weight, None, RECIPES["fp32"]).dtype == torch.bfloat16


def test_only_blocks_turn():
    with pytest.raises(AssertionError, match="one row"):
        transposed(Quantised(values_mk=drawn(2, 2), scales=drawn(2, 1), rows=1))
