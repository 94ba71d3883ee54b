"""Causal attention against its definition, forward and backward."""

import pytest
import torch
from torch import Tensor

from firstlight.ops import attention
from firstlight.ops.attention import causal_attention, reference_causal_attention

# query heads, key/value heads, query/key width, value width
SIZES = {
    "plain": (4, 4, 16, 16),
    "grouped": (4, 2, 16, 16),
    "one_key_head": (4, 1, 8, 8),
    "narrow_value": (4, 4, 24, 16),
    "wide_value": (4, 4, 16, 24),
    "odd_value": (2, 2, 7, 5),
    "grouped_narrow_value": (4, 2, 12, 8),
}


def heads(sizes: tuple[int, int, int, int], *, length: int = 19, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Query, key and value of two rows."""
    queries, keys, key_width, value_width = sizes
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, queries, length, key_width), (2, keys, length, key_width), (2, keys, length, value_width)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [one.to(dtype).requires_grad_() for one in drawn]


def test_reference_is_the_definition() -> None:
    query, key, value = heads(SIZES["grouped"], length=5)
    out = reference_causal_attention(query, key, value, scale=0.3)
    for row in range(2):
        for head in range(4):
            for position in range(5):
                shared = head // 2
                scores = torch.stack([query[row, head, position] @ key[row, shared, t] for t in range(position + 1)])
                weights = (0.3 * scores).exp() / (0.3 * scores).exp().sum()
                expected = sum(weights[t] * value[row, shared, t] for t in range(position + 1))
                torch.testing.assert_close(out[row, head, position], expected)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_fast_equals_reference(sizes: tuple[int, int, int, int], dtype: torch.dtype, tolerance: float) -> None:
    fast, exact = heads(sizes, dtype=dtype), heads(sizes)
    out = causal_attention(*fast, scale=0.37)
    expected = reference_causal_attention(*exact, scale=0.37)
    assert out.shape == (2, sizes[0], 19, sizes[3])
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=tolerance)
    # A gradient of its own for each element: with all ones, errors that cancel in a sum would pass.
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (out * weights.to(dtype)).sum().backward()
    (expected * weights).sum().backward()
    for ours, theirs in zip(fast, exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0, atol=20 * tolerance)


def test_bfloat16_stays_within_its_rounding() -> None:
    out = causal_attention(*heads(SIZES["narrow_value"], dtype=torch.bfloat16), scale=0.2)
    expected = reference_causal_attention(*heads(SIZES["narrow_value"]), scale=0.2)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("sizes", [(2, 1, 2, 2), (1, 1, 3, 2)], ids=["grouped", "narrow_value"])
def test_gradients_are_those_of_the_function(sizes: tuple[int, int, int, int]) -> None:
    assert torch.autograd.gradcheck(lambda *qkv: causal_attention(*qkv, scale=0.4), heads(sizes, length=3))


def test_narrow_value_is_padded_for_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the padding all results are the same, only slower: nothing else would notice.
    widths = []
    fused = attention.F.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.F,
        "scaled_dot_product_attention",
        lambda query, key, value, **rest: widths.append(value.shape[-1]) or fused(query, key, value, **rest),
    )
    # In a type that goes to torch's kernel.
    causal_attention(*heads(SIZES["narrow_value"], dtype=torch.bfloat16), scale=1.0)
    causal_attention(*heads(SIZES["wide_value"], dtype=torch.bfloat16), scale=1.0)
    assert widths == [24, 24]


WINDOWS = (1, 5, 7, 18, 19, 100)


@pytest.fixture(params=[128, 6], ids=["one_block", "blocks"])
def block_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows in one block, and in several: 19 positions make a last block that is not full."""
    monkeypatch.setattr(attention, "_MIN_BLOCK", request.param)


def sinks(num_heads: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A logit for each head, of about the size of the scores."""
    drawn = torch.randn(num_heads, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return drawn.to(dtype).requires_grad_()


def test_reference_with_window_and_sinks_is_the_definition() -> None:
    query, key, value = heads(SIZES["grouped"], length=6)
    sinks_h = sinks(4)
    out = reference_causal_attention(query, key, value, scale=0.3, window=3, sinks_h=sinks_h)
    for head in range(4):
        for position in range(6):
            seen = range(max(0, position - 2), position + 1)
            scores = [(0.3 * query[1, head, position] @ key[1, head // 2, t]).exp() for t in seen]
            total = sum(scores) + sinks_h[head].exp()
            expected = sum(score / total * value[1, head // 2, t] for score, t in zip(scores, seen, strict=True))
            torch.testing.assert_close(out[1, head, position], expected)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("window", [None, *WINDOWS])
@pytest.mark.parametrize("has_sinks", [False, True], ids=["no_sinks", "sinks"])
@pytest.mark.usefixtures("block_of")
def test_windows_and_sinks_equal_the_reference(
    sizes: tuple[int, int, int, int], window: int | None, has_sinks: bool
) -> None:
    fast, exact = heads(sizes, dtype=torch.float32), heads(sizes)
    fast_sinks, exact_sinks = (sinks(sizes[0], torch.float32), sinks(sizes[0])) if has_sinks else (None, None)
    out = causal_attention(*fast, scale=0.37, window=window, sinks_h=fast_sinks)
    expected = reference_causal_attention(*exact, scale=0.37, window=window, sinks_h=exact_sinks)
    assert out.shape == expected.shape
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-6)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (out * weights.float()).sum().backward()
    (expected * weights).sum().backward()
    pairs = [*zip(fast, exact, strict=True)] + ([(fast_sinks, exact_sinks)] if has_sinks else [])
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0, atol=4e-5)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.usefixtures("block_of")
def test_gradients_with_sinks_are_those_of_the_function(window: int | None) -> None:
    inputs = [*heads((2, 1, 2, 2), length=3), sinks(2)]
    assert torch.autograd.gradcheck(
        lambda q, k, v, s: causal_attention(q, k, v, scale=0.4, window=window, sinks_h=s), inputs
    )


def test_sinks_in_bfloat16_stay_within_its_rounding() -> None:
    sizes = SIZES["grouped"]
    out = causal_attention(*heads(sizes, dtype=torch.bfloat16), scale=0.2, window=5, sinks_h=sinks(4))
    expected = reference_causal_attention(*heads(sizes), scale=0.2, window=5, sinks_h=sinks(4))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=0.03)


def test_full_attention_with_sinks_makes_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    # A mask would send torch to a slower kernel, with the same results.
    masks = []
    fused = attention.F.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.F,
        "scaled_dot_product_attention",
        lambda *qkv, attn_mask, **rest: masks.append(attn_mask) or fused(*qkv, attn_mask=attn_mask, **rest),
    )
    grouped = heads(SIZES["grouped"], dtype=torch.bfloat16)
    causal_attention(*grouped, scale=1.0, sinks_h=sinks(4))
    causal_attention(*grouped, scale=1.0, window=30)
    assert masks == [None, None]


def test_work_of_a_window_grows_with_the_length_and_not_with_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_MIN_BLOCK", 4)
    sizes = []
    fused = attention.F.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.F,
        "scaled_dot_product_attention",
        lambda q, k, v, **rest: sizes.append(q.shape[0] * q.shape[2] * k.shape[2]) or fused(q, k, v, **rest),
    )
    for length in (40, 80):
        causal_attention(*heads(SIZES["grouped"], length=length), scale=1.0, window=4)
    # Two rows; each query against two blocks of four.
    assert sizes == [2 * 40 * 8, 2 * 80 * 8]
