"""Steps whose gradient norm is too large are skipped, by every rule, also over a restart; clipping by value."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from firstlight.config.norm_limit import AverageNormLimit, FixedNormLimit, MedianNormLimit
from firstlight.config.optimizer import AdamWConfig
from firstlight.optim.norm_limit import norm_limit_of
from firstlight.optim.optimizer import Optimizer, Surroundings


def owners() -> dict[str, nn.Parameter]:
    return {"a": nn.Parameter(torch.ones(2, 2)), "b": nn.Parameter(torch.ones(3))}


def optimizer_of(parameters: dict[str, nn.Parameter], **config: Any) -> Optimizer:
    around = Surroundings(
        learning_rate=lambda _step: 0.1,
        sum_over_ranks=lambda tensor: tensor,
        after_update=lambda: None,
        is_fused=True,
    )
    return Optimizer(parameters, AdamWConfig(learning_rate=0.1, **config), around)


def give(parameters: dict[str, nn.Parameter], norm: float) -> None:
    """Gradients of this norm together: five elements of one size, two of zero."""
    parameters["a"].grad = torch.full((2, 2), norm / 5**0.5)
    parameters["b"].grad = torch.tensor([norm / 5**0.5, 0.0, 0.0])


def test_a_fixed_limit_lets_pass_what_is_not_above_it() -> None:
    parameters = owners()
    optimizer = optimizer_of(parameters, skip_above={"kind": "fixed", "norm": 2.0})
    for norm, is_applied in ((1.9, True), (2.1, False), (math.inf, False), (math.nan, False), (0.1, True)):
        before = {name: one.detach().clone() for name, one in (parameters | optimizer.tensors()).items()}
        updates = optimizer.state_dict()["updates"]
        give(parameters, norm)
        update = optimizer.step()
        assert update.applied is is_applied
        assert update.norm_limit == 2.0
        assert optimizer.state_dict()["updates"] == updates + is_applied
        after = parameters | optimizer.tensors()
        assert all(torch.equal(after[name], one) for name, one in before.items()) is not is_applied
        assert all(parameter.grad is None for parameter in parameters.values())


def test_the_median_of_the_last_norms_is_what_is_usual() -> None:
    limit = norm_limit_of(MedianNormLimit(ratio=2, window=5, after_steps=3))
    seen = []
    for norm in (1.0, 3.0, 2.0, 100.0, 2.5, 2.6):
        seen.append(limit.now())
        limit.take(norm)
    # 100 counts as 4; then {1, 3, 2, 4, 2.5}, and 1 is forgotten.
    assert seen == [None, None, None, 4.0, 5.0, 5.0]
    assert limit.now() == pytest.approx(5.2)


def test_the_average_has_no_start_at_zero_and_grows_with_the_norms() -> None:
    limit = norm_limit_of(AverageNormLimit(ratio=3, decay=0.5, after_steps=2))
    for norm in (2.0, 4.0):
        assert limit.now() is None
        limit.take(norm)
    average = (0.25 * 2 + 0.5 * 4) / 0.75
    assert limit.now() == pytest.approx(3 * average)
    limits = []
    for _ in range(20):
        limits.append(limit.now())
        limit.take(1000.0)
    assert limits == sorted(limits)
    assert limit.now() == pytest.approx(3000, rel=1e-3)


@pytest.mark.parametrize(
    "config",
    [FixedNormLimit(norm=3), MedianNormLimit(ratio=1.5, window=6, after_steps=2), AverageNormLimit(after_steps=2)],
    ids=lambda config: config.kind,
)
def test_a_limit_goes_on_as_it_was(config: Any) -> None:
    norms = torch.rand(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64).tolist()
    through, first, second = (norm_limit_of(config) for _ in range(3))
    expected = []
    for norm in norms:
        expected.append(through.now())
        through.take(norm)
    for norm in norms[:20]:
        first.take(norm)
    second.load_state_dict(first.state_dict())
    found = []
    for norm in norms[20:]:
        found.append(second.now())
        second.take(norm)
    assert found == expected[20:]


def test_a_limit_can_begin_in_the_middle_of_a_run() -> None:
    before = optimizer_of(owners())
    assert before.state_dict() == {"updates": 0}
    parameters = owners()
    after = optimizer_of(parameters, skip_above={"after_steps": 1})
    after.load_state_dict({"updates": 7})
    give(parameters, 1.0)
    assert after.step().norm_limit is None
    give(parameters, 5.5)
    update = after.step()
    assert update.norm_limit == pytest.approx(5.0)
    assert not update.applied
    assert after.state_dict()["updates"] == 8


def test_clipping_by_value_is_torchs() -> None:
    ours, theirs = owners(), owners()
    optimizer = optimizer_of(ours, max_grad_norm=None, max_grad_value=0.3, weight_decay=0.0)
    gradients = torch.linspace(-1, 1, 4).view(2, 2), torch.tensor([0.29, -0.31, 5.0])
    for parameters in (ours, theirs):
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient.clone()
    norm = optimizer.step().grad_norm
    assert norm == pytest.approx(math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients)))
    nn.utils.clip_grad_value_(theirs.values(), 0.3)
    moments = optimizer.tensors()
    for name, parameter in theirs.items():
        assert parameter.grad is not None
        torch.testing.assert_close(moments[f"exp_avg/{name}"], parameter.grad * 0.1)


def test_gradients_are_clipped_one_way() -> None:
    with pytest.raises(ValidationError, match=r"max_grad_value = 0\.5 and max_grad_norm = 1\.0"):
        AdamWConfig(learning_rate=1, max_grad_value=0.5)
