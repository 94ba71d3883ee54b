"""An optimizer of one's own: a section, a rule and a row, as the guide says; the rest works with it."""

from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from firstlight.config.optimizer import OptimizerSection
from firstlight.optim.optimizer import Optimizer, Surroundings
from firstlight.optim.rule import Member, Rates
from firstlight.optim.rules import BUILDERS


class SignConfig(OptimizerSection):
    """Each number moves by the rate, against the sign of its gradient."""

    type: Literal["sign"] = "sign"

    def moments_of(self, name: str, shape: Sequence[int]) -> tuple[str, ...]:  # noqa: ARG002
        """It has none."""
        return ()


class Sign:
    """See UpdateRule."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members

    @torch.no_grad()
    def update(self, rates: Rates) -> None:
        """See UpdateRule."""
        for member in self._members:
            assert member.parameter.grad is not None
            member.parameter.sub_(rates.learning_rate * member.learning_rate_ratio * member.parameter.grad.sign())

    def tensors(self) -> dict[str, Tensor]:
        """See UpdateRule."""
        return {}

    def load_updates(self, updates: int) -> None:
        """See UpdateRule."""


def test_a_row_is_all_that_an_optimizer_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILDERS, SignConfig, lambda _config, given: [Sign(given.members)])  # type: ignore[arg-type]
    parameters = {"a": nn.Parameter(torch.zeros(3)), "b": nn.Parameter(torch.zeros(2))}
    around = Surroundings(
        learning_rate=lambda _step: 0.5,
        sum_over_ranks=lambda tensor: tensor,
        after_update=lambda: None,
        is_fused=False,
    )
    config = SignConfig.model_validate(
        {
            "learning_rate": 0.5,
            "groups": [{"pattern": "b", "learning_rate_ratio": 0.1}],
            "skip_above": {"kind": "fixed", "norm": 10},
        }
    )
    optimizer = Optimizer(parameters, config, around)
    for size in (1.0, 100.0):
        parameters["a"].grad = size * torch.tensor([1.0, -2.0, 0.0])
        parameters["b"].grad = size * torch.tensor([-1.0, 1.0])
        assert optimizer.step().applied is (size == 1.0)
    assert parameters["a"].tolist() == [-0.5, 0.5, 0.0]
    torch.testing.assert_close(parameters["b"].detach(), torch.tensor([0.05, -0.05]))
