"""The sigmoid router against a loop over tokens, written from equations 12 to 16 of DeepSeek-V3."""

import pytest
import torch
from torch import Tensor

from firstlight.config.router import SigmoidRouter
from firstlight.models.router import Routed, TopKRouter

HIDDEN = 16
# experts, experts per token, groups, groups kept
SIZES = {
    "no_groups": (8, 2, 1, 1),
    "deepseek": (16, 4, 4, 2),
    "one_group_kept": (12, 3, 3, 1),
    "all_groups_kept": (12, 5, 3, 3),
    "groups_of_one": (6, 2, 6, 3),
    "whole_groups_chosen": (8, 4, 4, 2),
}


def router_of(
    sizes: tuple[int, int, int, int],
    *,
    bias: float | Tensor = 0.0,
    dtype: torch.dtype = torch.float64,
    **changes: object,
) -> TopKRouter:
    """A router with random weights; `bias` is added to random biases of about 0.1."""
    experts, top_k, groups, kept = sizes
    config = SigmoidRouter(
        num_experts_per_tok=top_k, n_group=groups, topk_group=kept, routed_scaling_factor=2.5, **changes
    )
    router = TopKRouter(HIDDEN, experts, config)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        router.weight.copy_(torch.randn(router.weight.shape, generator=generator) * 0.2)
        router.bias.copy_(torch.randn(experts, generator=generator) * 0.1 + bias)
    return router.to(dtype)


def hidden(*, rows: int = 3, length: int = 20, dtype: torch.dtype = torch.float64) -> Tensor:
    drawn = torch.randn(rows, length, HIDDEN, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return drawn.to(dtype)


def scores_of(router: TopKRouter, hidden_bsd: Tensor) -> list[list[float]]:
    """Each token's score of each expert."""
    scores: list[list[float]] = torch.sigmoid(hidden_bsd.flatten(0, 1) @ router.weight.T).tolist()
    return scores


def chosen_by_definition(router: TopKRouter, hidden_bsd: Tensor) -> list[dict[int, float]]:
    """For each token the chosen experts and their weights."""
    config, bias = router.config, router.bias.tolist()
    size = router.num_experts // config.n_group
    out = []
    for scores in scores_of(router, hidden_bsd):
        biased = [score + b for score, b in zip(scores, bias, strict=True)]
        members = [range(group * size, (group + 1) * size) for group in range(config.n_group)]
        group_scores = [sum(sorted((biased[e] for e in group), reverse=True)[:2]) for group in members]
        best_groups = sorted(range(config.n_group), key=lambda g: -group_scores[g])[: config.topk_group]
        allowed = [expert for group in best_groups for expert in members[group]]
        chosen = sorted(allowed, key=lambda e: -biased[e])[: config.num_experts_per_tok]
        total = sum(scores[e] for e in chosen) if config.norm_topk_prob else 1.0
        out.append({e: 2.5 * scores[e] / total for e in chosen})
    return out


def chosen(routing: Routed) -> list[dict[int, float]]:
    pairs = zip(routing.experts_tk.tolist(), routing.weights_tk.tolist(), strict=True)
    return [dict(zip(experts, weights, strict=True)) for experts, weights in pairs]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("is_normalised", [True, False], ids=["normalised", "raw"])
# With a bias of -5 every biased score is negative: groups masked with zero would win.
@pytest.mark.parametrize("bias", [0.0, -5.0])
def test_choice_and_weights_are_the_definition(
    sizes: tuple[int, int, int, int], is_normalised: bool, bias: float
) -> None:
    router, hidden_bsd = router_of(sizes, bias=bias, norm_topk_prob=is_normalised), hidden()
    routing = router(hidden_bsd)
    for ours, expected in zip(chosen(routing), chosen_by_definition(router, hidden_bsd), strict=True):
        assert ours == pytest.approx(expected, rel=1e-10)
    counts = [sum(expert in token for token in chosen(routing)) for expert in range(sizes[0])]
    assert routing.load_e.tolist() == counts
    assert sum(counts) == 60 * sizes[1]


def test_choice_stays_within_the_best_groups() -> None:
    # Each token has the same scores; the best single expert is 7, but its group's two best add up to less.
    router = router_of((8, 2, 4, 1))
    with torch.no_grad():
        router.bias.copy_(torch.tensor([0.0, 0.0, 0.3, 0.3, -0.1, 0.2, -0.9, 0.6]))
        router.weight.zero_()
    experts_tk = router(hidden()).experts_tk
    assert {tuple(sorted(row)) for row in experts_tk.tolist()} == {(2, 3)}


def test_bias_steers_the_choice_and_not_the_weights() -> None:
    sizes, hidden_bsd = SIZES["deepseek"], hidden()
    favoured = torch.zeros(sizes[0])
    favoured[5] = 10.0
    router = router_of(sizes, bias=favoured)
    scores = scores_of(router, hidden_bsd)
    plain = chosen(router_of(sizes)(hidden_bsd))
    assert any(5 not in token for token in plain)
    for token, raw in zip(chosen(router(hidden_bsd)), scores, strict=True):
        assert token[5] == pytest.approx(2.5 * raw[5] / sum(raw[e] for e in token), rel=1e-10)
        assert sum(token.values()) == pytest.approx(2.5)


def test_bias_is_a_buffer_that_is_saved_and_gets_no_gradient() -> None:
    router = router_of(SIZES["deepseek"])
    assert [name for name, _ in router.named_parameters()] == ["weight"]
    assert set(router.state_dict()) == {"weight", "bias"}
    routing = router(hidden())
    (routing.weights_tk.square().sum() + routing.balance_loss).backward()
    assert router.bias.grad is None
    assert router.weight.grad is not None
    assert router.weight.grad.any()


def test_gradient_is_that_of_the_weights_formula() -> None:
    router, hidden_bsd = router_of(SIZES["deepseek"]), hidden()
    factors = torch.randn(60, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    routing = router(hidden_bsd)
    (routing.weights_tk * factors).sum().backward()
    weight = router.weight.detach().clone().requires_grad_()
    scores_te = torch.sigmoid(hidden_bsd.flatten(0, 1) @ weight.T)
    picked = torch.stack([scores[experts] for scores, experts in zip(scores_te, routing.experts_tk, strict=True)])
    (2.5 * picked / picked.sum(-1, keepdim=True) * factors).sum().backward()
    torch.testing.assert_close(router.weight.grad, weight.grad)


def test_router_stays_in_fp32_under_autocast() -> None:
    # In bfloat16 scores have 8 bits: near ties would be decided by rounding.
    router = router_of(SIZES["deepseek"], dtype=torch.float32)
    hidden_bsd = hidden(dtype=torch.float32)
    plain = router(hidden_bsd)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = router(hidden_bsd)
    assert torch.equal(mixed.experts_tk, plain.experts_tk)
    assert torch.equal(mixed.weights_tk, plain.weights_tk)
    assert torch.equal(mixed.balance_loss, plain.balance_loss)
    assert mixed.weights_tk.dtype == torch.float32
