"""The activations, element by element."""

import math

import pytest
import torch

from firstlight.ops.activation import clamped_swiglu, swiglu

GATES = [-9.0, -7.0, -0.5, 0.0, 0.5, 2.0, 7.0, 9.0]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("up", [-8.0, -1.0, 0.25, 7.5])
def test_by_hand(gate: float, up: float) -> None:
    pair = torch.tensor(gate, dtype=torch.float64), torch.tensor(up, dtype=torch.float64)
    assert swiglu(*pair).item() == pytest.approx(gate / (1 + math.exp(-gate)) * up)
    # gpt-oss: the gate is clamped from above only, the up projection on both sides.
    clamped_gate, clamped_up = min(gate, 7.0), max(-7.0, min(up, 7.0))
    expected = clamped_gate / (1 + math.exp(-1.702 * clamped_gate)) * (clamped_up + 1)
    assert clamped_swiglu(*pair, alpha=1.702, limit=7.0).item() == pytest.approx(expected)
