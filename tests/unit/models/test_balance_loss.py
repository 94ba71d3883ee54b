"""The balance loss against a loop written from equations 17 to 20 of DeepSeek-V3, of every kind of router."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from firstlight.config.router import AnyRouter, SigmoidRouter, SoftmaxRouter, TopKSoftmaxRouter
from firstlight.models.router import TopKRouter

EXPERTS, TOP_K, HIDDEN = 8, 2, 12


def router_of(*, groups: int = 1, kept: int = 1) -> TopKRouter:
    config = SigmoidRouter(num_experts_per_tok=TOP_K, n_group=groups, topk_group=kept, routed_scaling_factor=2.5)
    router = TopKRouter(HIDDEN, EXPERTS, config)
    with torch.no_grad():
        router.weight.copy_(torch.randn(EXPERTS, HIDDEN, generator=torch.Generator().manual_seed(3)))
    return router.double()


def hidden(*, rows: int = 3, length: int = 10) -> Tensor:
    return torch.randn(rows, length, HIDDEN, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def by_definition(weight: Tensor, hidden_bsd: Tensor) -> Tensor:
    """Sum over sequences of sum_i f_i P_i, with f_i counted by hand."""
    total = torch.zeros((), dtype=torch.float64)
    for sequence in hidden_bsd:
        counts, shares = [0] * EXPERTS, [torch.zeros((), dtype=torch.float64)] * EXPERTS
        for token in sequence:
            scores = torch.sigmoid(weight @ token)
            for expert in sorted(range(EXPERTS), key=lambda e: -scores[e].item())[:TOP_K]:
                counts[expert] += 1
            shares = [share + scores[e] / scores.sum() for e, share in enumerate(shares)]
        length = len(sequence)
        for count, share in zip(counts, shares, strict=True):
            total = total + EXPERTS / (TOP_K * length) * count * share / length
    return total


def test_value_and_gradient_are_the_definition() -> None:
    router, hidden_bsd = router_of(), hidden()
    loss = router(hidden_bsd).balance_loss
    weight = router.weight.detach().clone().requires_grad_()
    expected = by_definition(weight, hidden_bsd)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(router.weight.grad, weight.grad)
    assert weight.grad.norm() > 1e-3


def test_bias_and_groups_play_no_part() -> None:
    router = router_of(groups=4, kept=1)
    with torch.no_grad():
        router.bias[3] = 10.0
    torch.testing.assert_close(router(hidden()).balance_loss, by_definition(router.weight, hidden()))


def test_each_sequence_is_balanced_by_itself() -> None:
    # Two sequences, each with favourites of its own, are balanced together and not each.
    router, hidden_bsd = router_of(), hidden()
    alone = [router(hidden_bsd[row : row + 1]).balance_loss.item() for row in range(3)]
    assert router(hidden_bsd).balance_loss.item() == pytest.approx(sum(alone), rel=1e-12)
    joined = router(hidden_bsd.reshape(1, -1, HIDDEN)).balance_loss.item()
    assert abs(joined - sum(alone) / 3) > 1e-3


def test_equal_scores_cost_one_for_each_sequence() -> None:
    router = router_of()
    with torch.no_grad():
        router.weight.zero_()
    assert router(hidden(rows=5)).balance_loss.item() == pytest.approx(5.0)


def test_uneven_choice_costs_more() -> None:
    # All tokens alike: the same two experts take everything, so f is 4 for them, and the loss is 4 times their share.
    router = router_of()
    same = hidden(rows=1, length=1).expand(1, 16, HIDDEN)
    scores = torch.sigmoid(router.weight @ same[0, 0])
    expected = 4 * scores.topk(TOP_K).values.sum() / scores.sum()
    assert router(same).balance_loss.item() == pytest.approx(expected.item())
    assert expected > 1


def softmax_router(kind: type[AnyRouter], scope: str) -> TopKRouter:
    """With weights so large that experts are used unevenly."""
    router = TopKRouter(HIDDEN, EXPERTS, kind(num_experts_per_tok=TOP_K, balance_loss_scope=scope)).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return router


def probabilities(router: TopKRouter, hidden_bsd: Tensor) -> Tensor:
    bias = 0.0 if router.logit_bias is None else router.logit_bias
    return (hidden_bsd @ router.weight.T + bias).softmax(-1)


def switch_loss(chances_te: Tensor) -> Tensor:
    """E / K times the sum over experts of the share of tokens that choose it and its mean probability."""
    chosen = chances_te.topk(TOP_K, dim=-1).indices
    share_e = torch.stack([(chosen == expert).any(-1).double().mean() for expert in range(EXPERTS)])
    return (share_e * chances_te.mean(0)).sum() * EXPERTS / TOP_K


@pytest.mark.parametrize("kind", [SoftmaxRouter, TopKSoftmaxRouter])
def test_softmax_routers_balance_sequences_or_the_micro_batch(kind: type[AnyRouter]) -> None:
    by_sequence, by_batch = softmax_router(kind, "sequence"), softmax_router(kind, "micro_batch")
    chances = probabilities(by_sequence, hidden())
    expected = sum(switch_loss(sequence) for sequence in chances)
    torch.testing.assert_close(by_sequence(hidden()).balance_loss, expected)
    # Each of the three sequences counts the loss of them all, so that the mean over sequences is that loss.
    torch.testing.assert_close(by_batch(hidden()).balance_loss / 3, switch_loss(chances.flatten(0, 1)))
    assert by_sequence(hidden()).balance_loss > by_batch(hidden()).balance_loss


def test_loss_of_a_micro_batch_is_the_one_of_transformers() -> None:
    # Of one layer: transformers joins all layers before it measures. It counts a balanced router as K, not as one.
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    router = softmax_router(SoftmaxRouter, "micro_batch")
    loss = router(hidden()).balance_loss / 3
    weight = router.weight.detach().clone().requires_grad_()
    logits = hidden().flatten(0, 1) @ weight.T
    expected = mixtral.load_balancing_loss_func((logits,), EXPERTS, TOP_K) / TOP_K
    torch.testing.assert_close(loss, expected.double(), rtol=1e-6, atol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(router.weight.grad, weight.grad, rtol=1e-5, atol=1e-8)
    assert weight.grad.norm() > 1e-3


@pytest.mark.parametrize("kind", [SigmoidRouter, SoftmaxRouter, TopKSoftmaxRouter])
def test_every_router_has_a_weight_for_its_loss(kind: type[AnyRouter]) -> None:
    key = "sequence_balance_loss" if kind is SigmoidRouter else "balance_loss"
    assert kind(num_experts_per_tok=2, **{key: 0.25}).balance_weight == 0.25
    other = "balance_loss" if kind is SigmoidRouter else "sequence_balance_loss"
    with pytest.raises(ValidationError, match=other):
        kind(num_experts_per_tok=2, **{other: 0.25})
