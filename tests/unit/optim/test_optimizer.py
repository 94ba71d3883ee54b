"""AdamW against torch's and against its formula; clipping, steps that are not finite, and saved state."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from firstlight.config.optimizer import AdamWConfig
from firstlight.optim.optimizer import Optimizer, Surroundings

SHAPES = {"matrix": (5, 7), "experts": (3, 4, 6), "norm": (7,), "bias": (4,), "experts_bias": (3, 4)}
DECAYED = {"matrix", "experts"}


def parameters(*, seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def give_gradients(owners: dict[str, nn.Parameter], *, step: int, size: float = 1.0) -> None:
    """Gradients of step `step`, of a different size in each tensor."""
    generator = torch.Generator().manual_seed(1000 + step)
    for power, parameter in enumerate(owners.values()):
        parameter.grad = torch.randn(parameter.shape, generator=generator) * size * 10.0**-power


def optimizer_of(
    owners: dict[str, nn.Parameter],
    *,
    is_fused: bool = True,
    rate: Callable[[int], float] = lambda step: 1e-2 / (step + 1),
    after_update: Callable[[], None] = lambda: None,
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    **config: Any,
) -> Optimizer:
    around = Surroundings(
        learning_rate=rate, sum_over_ranks=sum_over_ranks, after_update=after_update, is_fused=is_fused
    )
    return Optimizer(owners, AdamWConfig(learning_rate=1e-2, **config), around)


def clipped_gradients(owners: dict[str, nn.Parameter], limit: float | None) -> tuple[float, dict[str, Tensor]]:
    """The norm that a first step reports, and the gradients that it used: a first moment is (1 - 0.9) of them."""
    optimizer = optimizer_of(owners, max_grad_norm=limit)
    norm = optimizer.step().grad_norm
    moments = optimizer.tensors()
    return norm, {name: moments[f"exp_avg/{name}"] / (1 - 0.9) for name in owners}


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "plain"])
def test_fifty_steps_are_torchs(is_fused: bool) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = optimizer_of(ours, is_fused=is_fused, weight_decay=0.3, max_grad_norm=None)
    groups = [
        {"params": [theirs[name] for name in SHAPES if name in DECAYED], "weight_decay": 0.3},
        {"params": [theirs[name] for name in SHAPES if name not in DECAYED], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
    for step in range(50):
        give_gradients(ours, step=step)
        give_gradients(theirs, step=step)
        for group in reference.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        assert optimizer.step().applied
        reference.step()
    for name in SHAPES:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "plain"])
def test_fifty_steps_are_the_formula(is_fused: bool) -> None:
    owners = parameters()
    values = {name: parameter.detach().double() for name, parameter in owners.items()}
    first = {name: torch.zeros_like(value) for name, value in values.items()}
    second = {name: torch.zeros_like(value) for name, value in values.items()}
    optimizer = optimizer_of(
        owners, is_fused=is_fused, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.3, max_grad_norm=None
    )
    for step in range(50):
        give_gradients(owners, step=step)
        rate = 1e-2 / (step + 1)
        for name, parameter in owners.items():
            assert parameter.grad is not None
            grad = parameter.grad.double()
            first[name] = 0.8 * first[name] + 0.2 * grad
            second[name] = 0.9 * second[name] + 0.1 * grad**2
            mean, variance = first[name] / (1 - 0.8 ** (step + 1)), second[name] / (1 - 0.9 ** (step + 1))
            values[name] = values[name] * (1 - rate * (0.3 if name in DECAYED else 0.0))
            values[name] = values[name] - rate * mean / (variance.sqrt() + 1e-3)
        optimizer.step()
    for name, parameter in owners.items():
        torch.testing.assert_close(parameter.double(), values[name], rtol=1e-6, atol=1e-6)


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    # The biases of stacked experts are no matrix, whatever their shape is.
    owners = parameters()
    before = {name: parameter.detach().clone() for name, parameter in owners.items()}
    for parameter in owners.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer_of(owners, weight_decay=0.5, rate=lambda _step: 0.1).step()
    for name, parameter in owners.items():
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if name in DECAYED else 1.0))


@pytest.mark.parametrize("limit", [0.01, 1.0, 5.0, 1e4])
def test_clipping_is_torchs(limit: float) -> None:
    ours, theirs = parameters(), parameters()
    give_gradients(ours, step=0, size=3.0)
    give_gradients(theirs, step=0, size=3.0)
    norm, used = clipped_gradients(ours, limit)
    expected = torch.nn.utils.clip_grad_norm_(theirs.values(), limit).item()
    assert norm == pytest.approx(expected, rel=1e-6)
    for name, parameter in theirs.items():
        torch.testing.assert_close(used[name], parameter.grad, rtol=1e-5, atol=0)


def test_norm_below_the_limit_and_no_limit_leave_gradients_alone() -> None:
    for limit in (100.0, None):
        owners = parameters()
        give_gradients(owners, step=0)
        given = {name: parameter.grad.clone() for name, parameter in owners.items() if parameter.grad is not None}
        norm, used = clipped_gradients(owners, limit)
        assert 1 < norm < 100
        for name, grad in given.items():
            torch.testing.assert_close(used[name], grad, rtol=1e-5, atol=0)


def test_norm_is_summed_over_shards() -> None:
    # As if three other ranks held shards of the same size: four times the square, twice the norm.
    owners = parameters()
    give_gradients(owners, step=0)
    alone = math.sqrt(sum(p.grad.double().square().sum().item() for p in owners.values() if p.grad is not None))
    optimizer = optimizer_of(owners, sum_over_ranks=lambda tensor: tensor * 4, max_grad_norm=1.0)
    assert optimizer.step().grad_norm == pytest.approx(2 * alone, rel=1e-12)
    square = sum(
        (moment / 0.1).double().square().sum() for name, moment in optimizer.tensors().items() if "avg/" in name
    )
    assert math.sqrt(square) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("where", SHAPES)
def test_step_that_is_not_finite_changes_nothing(bad: float, where: str) -> None:
    owners, updates = parameters(), []
    optimizer = optimizer_of(owners, after_update=lambda: updates.append(1))
    give_gradients(owners, step=0)
    optimizer.step()
    before = {name: tensor.clone() for name, tensor in (owners | optimizer.tensors()).items()}
    rate = optimizer.learning_rate

    give_gradients(owners, step=1)
    gradient = owners[where].grad
    assert gradient is not None
    gradient.view(-1)[2] = bad
    update = optimizer.step()

    assert not update.applied
    assert not math.isfinite(update.grad_norm)
    for name, tensor in (owners | optimizer.tensors()).items():
        assert torch.equal(tensor, before[name]), name
    assert optimizer.learning_rate == rate
    assert optimizer.state_dict() == {"updates": 1}
    assert updates == [1]
    assert all(parameter.grad is None for parameter in owners.values())


def test_run_goes_on_after_a_skipped_step_as_if_it_had_not_been() -> None:
    ours, theirs = parameters(), parameters()
    skipping, plain = optimizer_of(ours), optimizer_of(theirs)
    for step in range(4):
        for owners, optimizer in ((ours, skipping), (theirs, plain)):
            give_gradients(owners, step=step)
            optimizer.step()
        give_gradients(ours, step=99, size=math.inf)
        skipping.step()
    for name in SHAPES:
        assert torch.equal(ours[name], theirs[name])


def test_huge_gradients_are_clipped_and_not_taken_for_infinite() -> None:
    # Their squares overflow in fp32.
    owners = parameters()
    give_gradients(owners, step=0, size=1e25)
    update = optimizer_of(owners).step()
    assert update.applied
    assert update.grad_norm > 1e25


def test_learning_rate_is_that_of_the_update_to_come() -> None:
    owners, rates = parameters(), [0.5, 0.25, 0.125]
    optimizer = optimizer_of(owners, rate=rates.__getitem__, weight_decay=1.0)
    for rate in rates[:2]:
        assert optimizer.learning_rate == rate
        before = owners["matrix"].detach().clone()
        for parameter in owners.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        torch.testing.assert_close(owners["matrix"].detach(), before * (1 - rate))
    assert optimizer.learning_rate == 0.125


def test_each_update_is_followed_by_one_call() -> None:
    owners, seen = parameters(), []
    before = owners["matrix"].detach().clone()
    optimizer = optimizer_of(owners, after_update=lambda: seen.append(not torch.equal(owners["matrix"], before)))
    for step in range(3):
        give_gradients(owners, step=step)
        optimizer.step()
    assert seen == [True] * 3


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "plain"])
def test_restored_state_continues_to_the_bit(is_fused: bool) -> None:
    ours, theirs = parameters(), parameters(seed=7)
    saved = optimizer_of(ours, is_fused=is_fused)
    for step in range(5):
        give_gradients(ours, step=step)
        saved.step()

    restored = optimizer_of(theirs, is_fused=is_fused)
    target = theirs | restored.tensors()
    assert set(restored.tensors()) == {f"{moment}/{name}" for moment in ("exp_avg", "exp_avg_sq") for name in SHAPES}
    with torch.no_grad():
        for name, tensor in (ours | saved.tensors()).items():
            target[name].copy_(tensor)
    restored.load_state_dict(saved.state_dict())

    assert restored.learning_rate == saved.learning_rate
    for step in range(5, 10):
        for owners, optimizer in ((ours, saved), (theirs, restored)):
            give_gradients(owners, step=step)
            optimizer.step()
    for name, tensor in (ours | saved.tensors()).items():
        assert torch.equal(tensor, (theirs | restored.tensors())[name]), name
    assert restored.state_dict() == saved.state_dict() == {"updates": 10}
