"""The loss scale: torch's rules over any sequence of steps, and what the optimizer makes of it."""

import random

import pytest
import torch
from torch import nn

from firstlight.config.optimizer import AdamWConfig
from firstlight.config.precision import Fp16Precision
from firstlight.optim.loss_scale import DynamicLossScale, LossScale, NoLossScale
from firstlight.optim.optimizer import Optimizer, Surroundings


def optimizer_of(parameter: nn.Parameter, scale: LossScale) -> Optimizer:
    around = Surroundings(
        learning_rate=lambda _step: 0.1,
        sum_over_ranks=lambda tensor: tensor,
        after_update=lambda: None,
        is_fused=False,
        loss_scale=scale,
    )
    return Optimizer({"weight": parameter}, AdamWConfig(learning_rate=0.1, max_grad_norm=1.0), around)


@pytest.mark.parametrize("seed", range(5))
def test_it_moves_as_torchs(seed: int):
    config = Fp16Precision(growth_steps=3, growth_factor=4.0, backoff_factor=0.25)
    scale, source = DynamicLossScale(config), random.Random(seed)
    theirs, in_a_row = torch.tensor(65536.0), torch.tensor(0, dtype=torch.int32)
    for _ in range(60):
        is_finite = source.random() < 0.8
        scale.observe(applied=is_finite)
        torch._amp_update_scale_(theirs, in_a_row, torch.tensor(float(not is_finite)), 4.0, 0.25, 3)
        assert scale.value == max(float(theirs), 1.0)
        theirs.clamp_(min=1.0)


def test_it_has_a_floor_and_a_ceiling():
    scale = DynamicLossScale(Fp16Precision(initial_scale=8, min_scale=4, growth_steps=1, growth_factor=1024))
    for expected in (4.0, 4.0):
        scale.observe(applied=False)
        assert scale.value == expected
    for _ in range(50):
        scale.observe(applied=True)
    assert scale.value == 2.0**127


def test_its_state_is_all_of_it():
    config = Fp16Precision(growth_steps=4)
    one, other = DynamicLossScale(config), DynamicLossScale(config)
    for applied in (False, True, True, True):
        one.observe(applied=applied)
    other.load_state_dict(one.state_dict())
    one.observe(applied=True)
    other.observe(applied=True)
    assert one.value == other.value == 65536.0


def test_gradients_are_divided_before_norm_and_clipping():
    gradient, results = torch.tensor([3.0, 4.0]), []
    for scale in (NoLossScale(), DynamicLossScale(Fp16Precision(initial_scale=1024))):
        parameter = nn.Parameter(torch.ones(2))
        parameter.grad = gradient * scale.value
        update = optimizer_of(parameter, scale).step()
        assert (update.applied, update.grad_norm, update.loss_scale) == (True, 5.0, scale.value)
        results.append(parameter.detach().clone())
    assert torch.equal(*results)


def test_an_overflow_changes_the_scale_alone():
    parameter, scale = nn.Parameter(torch.ones(2)), DynamicLossScale(Fp16Precision())
    optimizer = optimizer_of(parameter, scale)
    parameter.grad = torch.tensor([1.0, float("inf")])
    update = optimizer.step()
    assert not update.applied
    assert update.loss_scale == 65536.0
    assert scale.value == 32768.0
    assert parameter.tolist() == [1.0, 1.0]
    assert optimizer.state_dict() == {"updates": 0, "loss_scale": {"value": 32768.0, "applied_in_a_row": 0}}


def test_without_a_scale_there_is_no_state_of_it():
    assert optimizer_of(nn.Parameter(torch.ones(2)), NoLossScale()).state_dict() == {"updates": 0}
