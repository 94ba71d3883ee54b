"""The mixture layer against a loop over tokens and experts."""

import math

import pytest
import torch
from torch import Tensor

from firstlight.config.model import MoeFeedForward
from firstlight.models.moe import MixtureOfExperts
from tests.unit.models.tiny_model import deepseek, filled, of_family


def layer_of(n_shared_experts: int) -> MixtureOfExperts:
    config = deepseek(feed_forward={"n_shared_experts": n_shared_experts})
    assert isinstance(config.feed_forward, MoeFeedForward)
    layer = filled(config, dtype=torch.float64).layers["1"].feed_forward
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


def test_biased_and_clamped_experts_by_hand() -> None:
    layer = filled(of_family("gpt_oss"), dtype=torch.float64).layers["0"].feed_forward
    hidden = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    routed, experts = layer.router(hidden), layer.experts
    out = layer(hidden)[0].flatten(0, 1)
    for token, x in enumerate(hidden.flatten(0, 1)):
        expected = torch.zeros(32, dtype=torch.float64)
        for expert, weight in zip(routed.experts_tk[token], routed.weights_tk[token], strict=True):
            gate = (experts.gate_proj[expert] @ x + experts.gate_bias[expert]).clamp(max=0.3)
            up = (experts.up_proj[expert] @ x + experts.up_bias[expert]).clamp(-0.3, 0.3)
            inner = gate * torch.sigmoid(1.702 * gate) * (up + 1)
            expected = expected + weight * (experts.down_proj[expert] @ inner + experts.down_bias[expert])
        torch.testing.assert_close(out[token], expected)


@pytest.mark.parametrize("factor", [0.25, 1.0, 1.5])
def test_capacity_drops_the_weakest_assignments(factor: float) -> None:
    config = deepseek(feed_forward={"n_shared_experts": 0}, router={"capacity_factor": factor})
    layer = filled(config, dtype=torch.float64).layers["1"].feed_forward
    hidden = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    routed, experts = layer.router(hidden), layer.experts
    # 18 tokens, 2 experts of 8 each: an even share is 4.5 assignments.
    capacity = math.ceil(factor * 4.5)
    expected, num_dropped = torch.zeros(18, 32, dtype=torch.float64), 0
    for expert in range(8):
        mine = (routed.experts_tk == expert).nonzero().tolist()
        ranked = sorted(mine, key=lambda place: -routed.weights_tk[place[0], place[1]].item())
        num_dropped += len(ranked[capacity:])
        for token, slot in ranked[:capacity]:
            parts = (experts.gate_proj[expert], experts.up_proj[expert], experts.down_proj[expert])
            row = swiglu(*parts, hidden.flatten(0, 1)[token])
            expected[token] += (routed.weights_tk[token, slot] * row).detach()
    assert num_dropped > 0
    out, load = layer(hidden)
    torch.testing.assert_close(out.flatten(0, 1), expected)
    # What is balanced is what the router wanted.
    assert load.load_e.sum() == 36


def test_capacity_that_is_never_reached_changes_nothing() -> None:
    hidden = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    roomy = filled(deepseek(router={"capacity_factor": 8.0}), dtype=torch.float64).layers["1"].feed_forward
    plain = filled(deepseek(), dtype=torch.float64).layers["1"].feed_forward
    assert torch.equal(roomy(hidden)[0], plain(hidden)[0])
