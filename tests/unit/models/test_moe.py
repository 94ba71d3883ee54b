"""The mixture layer against a loop over tokens and experts."""

import pytest
import torch
from torch import Tensor

from firstlight.config.model import MoeFeedForward
from firstlight.models.moe import MixtureOfExperts
from tests.unit.models.tiny_model import deepseek, filled


def layer_of(n_shared_experts: int) -> MixtureOfExperts:
    config = deepseek(feed_forward={"n_shared_experts": n_shared_experts})
    assert isinstance(config.feed_forward, MoeFeedForward)
    layer = filled(config, dtype=torch.float64).layers[1].feed_forward
    assert isinstance(layer, MixtureOfExperts)
    return layer


def swiglu(gate: Tensor, up: Tensor, down: Tensor, x: Tensor) -> Tensor:
    gated = gate @ x
    return down @ (gated * torch.sigmoid(gated) * (up @ x))


@pytest.mark.parametrize("n_shared_experts", [0, 1, 2])
def test_output_is_shared_plus_weighted_experts(n_shared_experts: int) -> None:
    layer = layer_of(n_shared_experts)
    hidden = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    out, load = layer(hidden)
    routing, experts = layer.router(hidden), layer.experts
    for token, x in enumerate(hidden.flatten(0, 1)):
        expected = torch.zeros(32, dtype=torch.float64)
        for expert, weight in zip(routing.experts_tk[token], routing.weights_tk[token], strict=True):
            parts = (experts.gate_proj[expert], experts.up_proj[expert], experts.down_proj[expert])
            expected = expected + weight * swiglu(*parts, x)
        for number in range(n_shared_experts):
            shared, mine = layer.shared_expert, slice(16 * number, 16 * (number + 1))
            assert shared is not None
            parts = (shared.gate_proj.weight[mine], shared.up_proj.weight[mine], shared.down_proj.weight[:, mine])
            expected = expected + swiglu(*parts, x)
        torch.testing.assert_close(out.flatten(0, 1)[token], expected)
    assert (layer.shared_expert is None) == (n_shared_experts == 0)
    assert torch.equal(load.load_e, routing.load_e)


def test_gradient_reaches_every_part() -> None:
    layer = layer_of(1)
    hidden = torch.randn(2, 9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    layer(hidden)[0].square().sum().backward()
    assert hidden.grad is not None
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
