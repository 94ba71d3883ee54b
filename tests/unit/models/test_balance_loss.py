"""The sequence-wise balance loss against a loop written from equations 17 to 20 of DeepSeek-V3."""

import pytest
import torch
from torch import Tensor

from firstlight.config.router import SigmoidRouter
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
