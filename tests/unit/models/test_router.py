"""The routers against loops over tokens; the sigmoid one written from equations 12 to 16 of DeepSeek-V3."""

import math

import pytest
import torch
from torch import Tensor

from firstlight.config.router import AnyRouter, SigmoidRouter, SoftmaxRouter, TopKSoftmaxRouter
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


def other_router(config: AnyRouter, *, num_experts: int = 12) -> TopKRouter:
    """A router of another kind, with random weights and logit biases."""
    router = TopKRouter(HIDDEN, num_experts, config)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return router.double()


def logits_of(router: TopKRouter, hidden_bsd: Tensor) -> list[list[float]]:
    bias = 0.0 if router.logit_bias is None else router.logit_bias
    logits: list[list[float]] = (hidden_bsd.flatten(0, 1) @ router.weight.T + bias).tolist()
    return logits


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("is_normalised", [True, False], ids=["normalised", "raw"])
@pytest.mark.parametrize(("groups", "kept"), [(1, 1), (4, 2), (3, 1)])
def test_softmax_router_is_the_definition(is_normalised: bool, groups: int, kept: int) -> None:
    # DeepSeek-V2: a group counts by its best expert. Without groups: Mixtral (normalised), DeepSeek-V2-Lite (raw).
    config = SoftmaxRouter(
        num_experts_per_tok=3, n_group=groups, topk_group=kept, norm_topk_prob=is_normalised, routed_scaling_factor=1.5
    )
    router, size = other_router(config), 12 // groups
    for ours, logits in zip(chosen(router(hidden())), logits_of(router, hidden()), strict=True):
        scores = softmax(logits)
        members = [range(group * size, (group + 1) * size) for group in range(groups)]
        best = sorted(members, key=lambda group: -max(scores[e] for e in group))[:kept]
        experts = sorted((e for group in best for e in group), key=lambda e: -scores[e])[:3]
        total = sum(scores[e] for e in experts) if is_normalised else 1.0
        assert ours == pytest.approx({e: 1.5 * scores[e] / total for e in experts}, rel=1e-10)


@pytest.mark.parametrize("has_logit_bias", [True, False])
def test_topk_softmax_router_is_the_definition(has_logit_bias: bool) -> None:
    router = other_router(TopKSoftmaxRouter(num_experts_per_tok=4, has_logit_bias=has_logit_bias))
    assert (router.logit_bias is not None) == has_logit_bias
    for ours, logits in zip(chosen(router(hidden())), logits_of(router, hidden()), strict=True):
        experts = sorted(range(12), key=lambda e: -logits[e])[:4]
        weights = softmax([logits[e] for e in experts])
        assert ours == pytest.approx(dict(zip(experts, weights, strict=True)), rel=1e-10)


def test_only_the_sigmoid_router_has_a_balancing_bias() -> None:
    for config in (SoftmaxRouter(num_experts_per_tok=2), TopKSoftmaxRouter(num_experts_per_tok=2)):
        router = other_router(config)
        assert router.bias is None
        assert not list(router.buffers())


@pytest.mark.parametrize("kind", [SigmoidRouter, SoftmaxRouter, TopKSoftmaxRouter])
@pytest.mark.parametrize("tokens", [20, 18])
def test_forced_round_robin_gives_every_expert_the_same(kind: type[AnyRouter], tokens: int) -> None:
    router = other_router(kind(num_experts_per_tok=4, force_balance="round_robin"))
    routed = router(hidden(rows=3, length=tokens))
    assert routed.load_e.tolist() == [tokens] * 12
    assert all(len(set(row)) == 4 for row in routed.experts_tk.tolist())


def test_forced_random_choice_is_even_without_repetition_and_alike_in_every_call() -> None:
    router = other_router(SoftmaxRouter(num_experts_per_tok=4, force_balance="random"))
    routed = router(hidden(rows=3, length=400))
    state = torch.random.get_rng_state()
    assert torch.equal(router(hidden(rows=3, length=400)).experts_tk, routed.experts_tk)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(len(set(row)) == 4 for row in routed.experts_tk.tolist())
    # 1200 x 4 / 12 = 400 each, with a deviation of about 16.
    assert (routed.load_e - 400).abs().max() < 70


def test_forced_experts_keep_the_weights_of_their_scores() -> None:
    router = other_router(SoftmaxRouter(num_experts_per_tok=2, force_balance="round_robin"))
    for token, (ours, logits) in enumerate(zip(chosen(router(hidden())), logits_of(router, hidden()), strict=True)):
        experts, scores = [2 * token % 12, (2 * token + 1) % 12], softmax(logits)
        total = sum(scores[e] for e in experts)
        assert ours == pytest.approx({e: scores[e] / total for e in experts}, rel=1e-10)
