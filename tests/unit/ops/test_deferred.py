"""Gradients of weights that are computed later are those that are computed at once."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from firstlight.ops.deferred import WeightGradients, deferred_grouped_linear, deferred_linear
from firstlight.ops.experts import grouped_linear, grouped_weight_gradient

ENDS = torch.tensor([3, 3, 8, 11], dtype=torch.int32)


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def results(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and the gradients of both, of a function of two products with the same weight."""
    x, weight = (tensor.detach().clone().requires_grad_() for tensor in (x, weight))
    out = product(product(x, weight).tanh(), weight)
    out.square().sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad, weight.grad if weight.grad is not None else torch.zeros(0)


@pytest.mark.parametrize("is_recomputed", [False, True])
@pytest.mark.parametrize("kind", ["linear", "grouped"])
def test_input_at_once_and_weight_later(kind: str, is_recomputed: bool) -> None:
    store = WeightGradients()
    if kind == "linear":
        x, weight = drawn(2, 5, 6, seed=0), drawn(6, 6, seed=1)
        plain: Callable[[Tensor, Tensor], Tensor] = F.linear
        later: Callable[[Tensor, Tensor], Tensor] = partial(deferred_linear, bias_o=None, store=store)
    else:
        x, weight = drawn(11, 6, seed=0), drawn(4, 6, 6, seed=1)
        plain = partial(grouped_linear, ends_e=ENDS)
        later = partial(deferred_grouped_linear, ends_e=ENDS, store=store)
    expected, expected_x, expected_weight = results(plain, x, weight)
    weight = weight.detach().requires_grad_()
    x = x.detach().requires_grad_()

    def model(x: Tensor) -> Tensor:
        return later(later(x, weight).tanh(), weight)

    out = checkpoint(model, x, use_reentrant=False) if is_recomputed else model(x)
    out.square().sum().backward()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(x.grad, expected_x)
    assert weight.grad is None
    work = store.take()
    assert weight.grad is None
    work()
    torch.testing.assert_close(weight.grad, expected_weight)
    store.take()()
    torch.testing.assert_close(weight.grad, expected_weight)


def test_a_bias_has_its_gradient_at_once_and_a_view_passes_the_weights_on() -> None:
    store, x, stored, bias = WeightGradients(), drawn(5, 6, seed=0), drawn(6, 4, seed=1), drawn(4, seed=2)
    deferred_linear(x, stored.T, bias, store).square().sum().backward()
    grad_bias = bias.grad
    assert grad_bias is not None
    store.take()()
    twin, twin_bias = stored.detach().requires_grad_(), bias.detach().requires_grad_()
    F.linear(x.detach(), twin.T, twin_bias).square().sum().backward()
    torch.testing.assert_close(stored.grad, twin.grad)
    torch.testing.assert_close(grad_bias, twin_bias.grad)


def test_without_gradients_nothing_is_kept() -> None:
    store, x, weight = WeightGradients(), drawn(11, 6, seed=0), drawn(4, 5, 6, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(
            deferred_grouped_linear(x, weight, ENDS, store), grouped_linear(x, weight, ENDS), rtol=0, atol=0
        )
        deferred_linear(x, weight[0], None, store)
    store.take()()
    assert weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_grouped_weight_gradient_is_that_of_autograd(dtype: torch.dtype) -> None:
    rows, weight, grad = drawn(11, 16, seed=0), drawn(4, 8, 16, seed=1), drawn(11, 8, seed=2)
    grouped_linear(rows, weight, ENDS).backward(grad.detach())
    found = grouped_weight_gradient(grad.detach().to(dtype), rows.detach().to(dtype), ENDS)
    assert found.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(found.double(), weight.grad, rtol=tolerance, atol=tolerance)


def test_autocast_defers_in_its_own_type_and_gives_the_parameters() -> None:
    store, x, weight = (
        WeightGradients(),
        drawn(5, 8, seed=0, dtype=torch.float32),
        drawn(8, 8, seed=1, dtype=torch.float32),
    )
    with torch.autocast("cpu", torch.bfloat16):
        out = deferred_linear(x, weight, None, store)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    store.take()()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
