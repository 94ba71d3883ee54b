"""Balancing without a loss: the bias's steps, and that they balance a router which starts out skewed."""

import pytest
import torch
from torch import Tensor

from firstlight.config.router import SigmoidRouter, SoftmaxRouter
from firstlight.models.balancing import BiasBalancing, max_violation
from firstlight.models.router import TopKRouter

EXPERTS = 16


def router_of(*, rate: float, num_experts: int = EXPERTS) -> TopKRouter:
    config = SigmoidRouter(num_experts_per_tok=2, n_group=4, topk_group=2, bias_update_rate=rate)
    return TopKRouter(8, num_experts, config)


def skewed(*, rate: float) -> tuple[TopKRouter, Tensor]:
    """A router that prefers some experts on every token, and the tokens."""
    generator = torch.Generator().manual_seed(0)
    router = router_of(rate=rate)
    with torch.no_grad():
        router.weight.copy_(torch.randn(EXPERTS, 8, generator=generator) * 0.3)
    return router, torch.randn(8, 256, 8, generator=generator) + torch.linspace(-1, 1, 8)


@torch.no_grad()
def train(router: TopKRouter, tokens: Tensor, *, steps: int) -> float:
    """MaxVio after `steps` updates."""
    balancing = BiasBalancing({"layers.0": router})
    for _ in range(steps):
        balancing.observe(router(tokens).load_e.double().unsqueeze(0))
        balancing.update()
    return max_violation(router(tokens).load_e.double()).item()


def test_skewed_router_is_balanced() -> None:
    router, tokens = skewed(rate=0.001)
    assert train(router, tokens, steps=0) > 1.0
    assert train(router, tokens, steps=600) < 0.1
    # Steps up and down are equal: nothing drifts away.
    assert router.bias.abs().max() < 0.6


def test_rate_of_zero_leaves_the_bias_alone() -> None:
    router, tokens = skewed(rate=0.0)
    before = train(router, tokens, steps=0)
    assert train(router, tokens, steps=20) == before
    assert not router.bias.any()


def test_rate_is_that_of_the_step() -> None:
    router, rates = router_of(rate=0.25, num_experts=4), [0.25, 0.125, 0.0]
    balancing = BiasBalancing({"layers.0": router}, lambda _number: rates.pop(0))
    for expected in (0.25, 0.375, 0.375):
        balancing.observe(torch.tensor([[0.0, 5.0, 3.0, 4.0]], dtype=torch.float64))
        balancing.update()
        assert router.bias[0].item() == expected


def test_one_step_is_the_rate_towards_the_mean() -> None:
    router = router_of(rate=0.25, num_experts=4)
    with torch.no_grad():
        router.bias.fill_(1.0)
    balancing = BiasBalancing({"layers.0": router})
    balancing.observe(torch.tensor([[0.0, 5.0, 3.0, 4.0]], dtype=torch.float64))
    balancing.update()
    assert router.bias.tolist() == [1.25, 0.75, 1.0, 0.75]
    assert router.bias.dtype == torch.float32


def test_each_layer_follows_its_own_load() -> None:
    first, second = router_of(rate=0.5, num_experts=4), router_of(rate=0.125, num_experts=4)
    balancing = BiasBalancing({"layers.1": first, "mtp.0.block": second})
    assert balancing.layer_names == ["layers.1", "mtp.0.block"]
    balancing.observe(torch.tensor([[0.0, 2, 2, 4], [4.0, 4, 0, 0]]))
    balancing.update()
    assert first.bias.tolist() == [0.5, 0.0, 0.0, -0.5]
    assert second.bias.tolist() == [-0.125, -0.125, 0.125, 0.125]


def test_a_load_is_used_once() -> None:
    # A step that is skipped observes a load and updates nothing; the next load must replace it, not add to it.
    router = router_of(rate=0.5, num_experts=4)
    balancing = BiasBalancing({"layers.0": router})
    balancing.update()
    assert not router.bias.any()
    balancing.observe(torch.tensor([[8.0, 0, 0, 0]]))
    balancing.observe(torch.tensor([[0.0, 0, 0, 8.0]]))
    balancing.update()
    balancing.update()
    assert router.bias.tolist() == [0.5, 0.5, 0.5, -0.5]


def test_max_violation() -> None:
    load = torch.tensor([[4.0, 4, 4, 4], [0.0, 0, 6, 2], [16.0, 0, 0, 0]])
    assert max_violation(load).tolist() == pytest.approx([0.0, 2.0, 3.0])


def test_a_router_without_the_bias_is_left_alone() -> None:
    plain = TopKRouter(8, 4, SoftmaxRouter(num_experts_per_tok=2))
    biased = router_of(rate=0.5, num_experts=4)
    balancing = BiasBalancing({"layers.0": plain, "layers.1": biased})
    balancing.observe(torch.tensor([[8.0, 0, 0, 0], [8.0, 0, 0, 0]]))
    balancing.update()
    assert plain.bias is None
    assert biased.bias.tolist() == [-0.5, 0.5, 0.5, 0.5]
