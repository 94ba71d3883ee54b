"""Sums of gradients over micro-batches: as exact as one rounding of the exact sum, whatever their order."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from firstlight.parallel.gradients import WholeGradients, gradient_sum

WIDTH = 40


class TwoVectors(nn.Module):
    """Parameters whose gradients are what a micro-batch says."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(WIDTH))
        self.second = nn.Parameter(torch.zeros(WIDTH))


def drawn(count: int, *, seed: int = 0) -> list[Tensor]:
    """Gradients of sizes that differ by a thousand, so that an fp32 sum shows its order."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-2, 2, (count, WIDTH), generator=generator)
    return list(torch.randn(count, WIDTH, generator=generator) * sizes)


def summed(micro_batches: list[tuple[Tensor | None, Tensor | None]], model: nn.Module | None = None) -> TwoVectors:
    """The model after a step of these gradients; None: the micro-batch does not use the parameter."""
    model = model or TwoVectors()
    assert isinstance(model, TwoVectors)
    gradients = gradient_sum(model)
    assert isinstance(gradients, WholeGradients)
    count = len(micro_batches)
    for index, (first, second) in enumerate(micro_batches):
        gradients.before(index, count)
        pairs = [(model.first, first), (model.second, second)]
        torch.stack([(p * g).sum() for p, g in pairs if g is not None]).sum().backward()
        gradients.after(index, count)
    return model


def rounded_once(gradients: list[Tensor]) -> Tensor:
    """The exact sum, element by element, in fp32."""
    return torch.tensor([math.fsum(values) for values in torch.stack(gradients).T.tolist()], dtype=torch.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 32])
def test_sum_is_the_exact_one_rounded_once(count: int) -> None:
    first, second = drawn(count), drawn(count, seed=1)
    model = summed(list(zip(first, second, strict=True)))
    for parameter, gradients in ((model.first, first), (model.second, second)):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert torch.equal(parameter.grad, rounded_once(gradients))


def test_plain_sum_would_not_do() -> None:
    # That the values above tell the two apart.
    gradients = drawn(7)
    plain = torch.zeros(WIDTH)
    for gradient in gradients:
        plain += gradient
    assert not torch.equal(plain, rounded_once(gradients))


def test_order_does_not_show() -> None:
    results = []
    for order in itertools.permutations(drawn(5)):
        grad = summed([(gradient, gradient) for gradient in order]).first.grad
        assert grad is not None
        results.append(grad)
    assert all(torch.equal(result, results[0]) for result in results)


def test_parameter_that_some_micro_batches_do_not_use() -> None:
    first, second = drawn(4), drawn(4, seed=1)
    model = summed([(first[0], None), (first[1], second[1]), (first[2], None), (first[3], second[3])])
    assert model.first.grad is not None
    assert model.second.grad is not None
    assert torch.equal(model.first.grad, rounded_once(first))
    assert torch.equal(model.second.grad, rounded_once([second[1], second[3]]))


@pytest.mark.parametrize("count", [2, 4])
def test_parameter_that_no_micro_batch_uses(count: int) -> None:
    model = summed([(gradient, None) for gradient in drawn(count)])
    assert model.first.grad is not None
    assert model.second.grad is None


def test_step_begins_at_zero() -> None:
    model = summed([(gradient, gradient) for gradient in drawn(4)])
    model.zero_grad(set_to_none=True)
    again = drawn(3, seed=2)
    summed([(gradient, gradient) for gradient in again], model)
    assert model.first.grad is not None
    assert torch.equal(model.first.grad, rounded_once(again))


def test_model_in_fp64_is_summed_in_fp64() -> None:
    model = TwoVectors().double()
    gradients = [gradient.double() for gradient in drawn(5)]
    summed([(gradient, gradient) for gradient in gradients], model)
    assert model.first.grad is not None
    assert model.first.grad.dtype == torch.float64
    torch.testing.assert_close(model.first.grad, torch.stack(gradients).sum(0), rtol=1e-14, atol=1e-14)
