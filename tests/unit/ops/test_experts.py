"""Tokens to experts and back against plain loops, and the grouped product against one product for each expert."""

import pytest
import torch
from torch import Tensor

from firstlight.ops import experts
from firstlight.ops.experts import (
    Assignment,
    add_segment_bias,
    grouped_linear,
    reference_grouped_linear,
    within_capacity,
)

NUM_EXPERTS = 6


def choices(num_tokens: int = 13, top_k: int = 3, *, unused: tuple[int, ...] = (0, 3, 5)) -> Tensor:
    """Distinct experts for each token, in no order; those in `unused` are chosen by nobody."""
    generator = torch.Generator().manual_seed(4)
    used = torch.tensor([expert for expert in range(NUM_EXPERTS) if expert not in unused])
    return torch.stack([used[torch.randperm(len(used), generator=generator)[:top_k]] for _ in range(num_tokens)])


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Normal values that want a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def ends(*counts: int) -> Tensor:
    """Where each expert's segment ends."""
    return torch.tensor(counts).cumsum(0).to(torch.int32)


def test_dispatch_gives_each_expert_its_tokens_in_order() -> None:
    experts_tk, tokens_td = choices(), drawn(13, 4)
    assignment = Assignment(experts_tk, NUM_EXPERTS)
    rows = assignment.dispatch(tokens_td)
    expected, counts = [], []
    for expert in range(NUM_EXPERTS):
        mine = [token for token in range(13) if expert in experts_tk[token].tolist()]
        expected += [tokens_td[token] for token in mine]
        counts.append(len(mine))
    assert torch.equal(rows, torch.stack(expected))
    assert assignment.counts_e.tolist() == counts
    assert assignment.ends_e.tolist() == torch.tensor(counts).cumsum(0).tolist()
    assert assignment.ends_e.dtype == torch.int32


def test_combine_is_the_weighted_sum_of_a_tokens_rows() -> None:
    experts_tk, weights_tk = choices(), drawn(13, 3, seed=1)
    assignment = Assignment(experts_tk, NUM_EXPERTS)
    rows = drawn(39, 4, seed=2)
    # The row of (token, expert) is where the sorted pairs have it.
    place = {pair: row for row, pair in enumerate(sorted((int(e), t) for t in range(13) for e in experts_tk[t]))}
    expected = torch.stack(
        [
            sum(weights_tk[token, slot] * rows[place[int(experts_tk[token, slot]), token]] for slot in range(3))
            for token in range(13)
        ]
    )
    torch.testing.assert_close(assignment.combine(rows, weights_tk), expected)


def test_gradient_of_the_permutations_is_that_of_plain_indexing() -> None:
    experts_tk = choices()
    assignment = Assignment(experts_tk, NUM_EXPERTS)
    tokens, plain_tokens = drawn(13, 4), drawn(13, 4)
    weights, plain_weights = drawn(13, 3, seed=1), drawn(13, 3, seed=1)
    factors_nd = drawn(39, 4, seed=3).detach()

    assignment.combine(assignment.dispatch(tokens) * factors_nd, weights).square().sum().backward()

    rows = plain_tokens.repeat_interleave(3, dim=0)[assignment.order_n] * factors_nd
    by_token = rows[torch.argsort(assignment.order_n)].unflatten(0, (13, 3))
    (by_token * plain_weights.unsqueeze(-1)).sum(1).square().sum().backward()
    torch.testing.assert_close(tokens.grad, plain_tokens.grad)
    torch.testing.assert_close(weights.grad, plain_weights.grad)


def test_gradients_are_those_of_the_function() -> None:
    assignment = Assignment(choices(5, 2), NUM_EXPERTS)

    def through_experts(tokens: Tensor, weight: Tensor, weights_tk: Tensor) -> Tensor:
        rows = grouped_linear(assignment.dispatch(tokens), weight, assignment.ends_e)
        return assignment.combine(rows.sin(), weights_tk)

    inputs = (drawn(5, 4), drawn(NUM_EXPERTS, 3, 4, seed=1), drawn(5, 2, seed=2))
    assert torch.autograd.gradcheck(through_experts, inputs)


def test_one_expert_for_each_token() -> None:
    tokens_td = drawn(7, 4)
    assignment = Assignment(choices(7, 1), NUM_EXPERTS)
    combined = assignment.combine(assignment.dispatch(tokens_td), torch.ones(7, 1, dtype=torch.float64))
    assert torch.equal(combined, tokens_td)


def test_reference_is_one_product_for_each_row() -> None:
    rows, weight = drawn(6, 4), drawn(4, 5, 4, seed=1)
    out = reference_grouped_linear(rows, weight, ends(0, 2, 1, 3))
    expected = [weight[expert] @ row for expert, row in zip([1, 1, 2, 3, 3, 3], rows, strict=True)]
    torch.testing.assert_close(out, torch.stack(expected))


SEGMENTS = {
    "all": (3, 9, 1, 4),
    "first_empty": (0, 9, 4, 4),
    "middle_empty": (5, 0, 0, 12),
    "last_empty": (8, 8, 1, 0),
    "only_one": (0, 17, 0, 0),
}
# in, out, and whether torch's grouped product takes the rows: they begin at multiples of 16 bytes
WIDTHS = {
    (torch.float32, 8, 12): True,
    (torch.float32, 6, 12): False,
    (torch.float32, 8, 7): False,
    (torch.bfloat16, 16, 24): True,
    (torch.bfloat16, 12, 16): False,
    (torch.float64, 8, 12): False,
}


@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS)
@pytest.mark.parametrize(("dtype", "width", "out_width"), WIDTHS, ids=str)
def test_grouped_product_equals_reference(
    segments: tuple[int, ...], dtype: torch.dtype, width: int, out_width: int
) -> None:
    num_rows = sum(segments)
    rows, weight = drawn(num_rows, width, dtype=dtype), drawn(4, out_width, width, dtype=dtype, seed=1)
    exact_rows, exact_weight = (x.detach().double().requires_grad_() for x in (rows, weight))
    out = grouped_linear(rows, weight, ends(*segments))
    expected = reference_grouped_linear(exact_rows, exact_weight, ends(*segments))
    factors = drawn(num_rows, out_width, dtype=dtype, seed=2).detach()
    (out * factors).sum().backward()
    (expected * factors.double()).sum().backward()
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype]
    pairs = [(out, expected), (rows.grad, exact_rows.grad), (weight.grad, exact_weight.grad)]
    for ours, theirs in pairs:
        assert ours.dtype == dtype
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()
    for expert, count in enumerate(segments):
        # Not only small: a step of the optimizer divides by the size of the gradient.
        assert count or not weight.grad[expert].any()


@pytest.mark.parametrize(("sizes", "is_fast"), WIDTHS.items(), ids=str)
def test_grouped_product_is_used_where_it_can_be(
    sizes: tuple[torch.dtype, int, int], is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loop gives the same numbers: a fast path that is never taken would stay unseen.
    dtype, width, out_width = sizes
    taken = []
    loop = experts.reference_grouped_linear
    monkeypatch.setattr(experts, "reference_grouped_linear", lambda *args: taken.append(args) or loop(*args))
    grouped_linear(drawn(17, width, dtype=dtype), drawn(4, out_width, width, dtype=dtype), ends(3, 9, 1, 4))
    assert len(taken) == (0 if is_fast else 1)


def test_no_rows_give_no_rows() -> None:
    out = grouped_linear(drawn(0, 8, dtype=torch.float32), drawn(4, 12, 8, dtype=torch.float32), ends(0, 0, 0, 0))
    assert out.shape == (0, 12)


def test_autocast_multiplies_in_its_dtype() -> None:
    rows, weight = drawn(17, 16, dtype=torch.float32), drawn(4, 8, 16, dtype=torch.float32, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        out = grouped_linear(rows, weight, ends(3, 9, 1, 4))
    assert out.dtype == torch.bfloat16
    out.square().sum().backward()
    assert weight.grad.dtype == rows.grad.dtype == torch.float32


@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS)
def test_bias_of_a_segment_is_added_to_its_rows(segments: tuple[int, ...]) -> None:
    rows, bias = drawn(sum(segments), 3), drawn(4, 3, seed=1)
    out = add_segment_bias(rows, bias, torch.tensor(segments))
    owners = [expert for expert, count in enumerate(segments) for _ in range(count)]
    torch.testing.assert_close(out, rows + bias[owners])
    factors = drawn(*out.shape, seed=2).detach()
    (out * factors).sum().backward()
    for expert in range(4):
        mine = [row for row, owner in enumerate(owners) if owner == expert]
        torch.testing.assert_close(bias.grad[expert], factors[mine].sum(0))


def test_gradients_of_the_bias_are_those_of_the_function() -> None:
    counts = torch.tensor((2, 0, 3))
    assert torch.autograd.gradcheck(
        lambda rows, bias: add_segment_bias(rows, bias, counts).sin(), (drawn(5, 2), drawn(3, 2))
    )


def test_gradient_of_the_bias_is_summed_in_fp32() -> None:
    # In bfloat16, a sum of ones stops at 256.
    rows, bias = drawn(1000, 2, dtype=torch.bfloat16), drawn(2, 2, dtype=torch.float32)
    out = add_segment_bias(rows, bias, torch.tensor((1, 999)))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert bias.grad.tolist() == [[1.0, 1.0], [999.0, 999.0]]
    assert rows.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("capacity", [0, 1, 3, 13])
def test_capacity_keeps_the_strongest_assignments_of_each_expert(capacity: int) -> None:
    experts_tk = choices()
    weights_tk = drawn(13, 3, seed=5).detach().abs()
    weights_tk[4] = weights_tk[9]  # two alike: the earlier token goes first
    is_kept = within_capacity(Assignment(experts_tk, NUM_EXPERTS), weights_tk, capacity)
    for expert in range(NUM_EXPERTS):
        mine = [(-weights_tk[t, k].item(), t, k) for t in range(13) for k in range(3) if experts_tk[t, k] == expert]
        kept = {(t, k) for _, t, k in sorted(mine)[:capacity]}
        assert {(t, k) for _, t, k in mine if is_kept[t, k]} == kept
