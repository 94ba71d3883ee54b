"""Largest attention logits against the whole matrix of scores, and which passes count."""

import pytest
import torch
from torch import Tensor

from firstlight.ops.attention import Visibility, causal_attention
from firstlight.ops.attention_logits import LogitWatch


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(
    ("length", "window", "has_documents"),
    [(5, None, False), (700, None, False), (700, 40, False), (30, 8, True), (600, None, True), (600, 550, True)],
)
def test_the_largest_is_that_of_the_whole_matrix(length: int, window: int | None, has_documents: bool) -> None:
    query, key = drawn(2, 6, length, 8, seed=1), drawn(2, 3, length, 8, seed=2)
    documents = torch.arange(length).div(7, rounding_mode="floor").expand(2, -1) if has_documents else None
    scores = query @ key.repeat_interleave(2, dim=1).transpose(-2, -1) * 0.3
    distance = torch.arange(length)[:, None] - torch.arange(length)
    is_seen = (distance >= 0) & (distance < (window or length))
    if documents is not None:
        is_seen = is_seen & (documents[:, None, :, None] == documents[:, None, None, :])
    expected = scores.masked_fill(~is_seen, float("-inf")).amax((0, 2, 3))
    largest = torch.full((6,), float("-inf"), dtype=torch.float64)
    value = drawn(2, 3, length, 4, seed=3)
    plain = causal_attention(query, key, value, scale=0.3, window=window, visibility=Visibility(documents))
    out = causal_attention(
        query, key, value, scale=0.3, window=window, visibility=Visibility(documents), largest_h=largest
    )
    assert torch.equal(out, plain)
    torch.testing.assert_close(largest, expected, rtol=1e-14, atol=0)


def test_logits_of_bfloat16_are_computed_in_more_even_under_autocast() -> None:
    query, key = (drawn(1, 2, 16, 8, seed=seed, dtype=torch.bfloat16) for seed in (1, 2))
    largest = torch.full((2,), float("-inf"))
    with torch.autocast("cpu", torch.bfloat16):
        causal_attention(query, key, key, scale=1.0, largest_h=largest)
    scores = query.double() @ key.double().transpose(-2, -1)
    expected = scores.masked_fill(torch.ones(16, 16).triu(1).bool(), float("-inf")).amax((0, 2, 3))
    torch.testing.assert_close(largest.double(), expected, rtol=1e-6, atol=0)


def test_a_pass_that_is_paused_does_not_count() -> None:
    watch = LogitWatch()
    query = drawn(1, 2, 4, 8, seed=1)
    watch.is_paused = True
    assert watch.heads(query) is None
    watch.is_paused = False
    assert watch.heads(query) is not None


def test_only_training_counts_and_each_step_anew() -> None:
    watch, query = LogitWatch(), drawn(1, 3, 4, 8, seed=1)
    with torch.no_grad():
        assert watch.heads(query) is None
    assert watch.take() is None
    heads = watch.heads(query)
    assert heads is not None
    assert watch.heads(query) is heads
    heads[1] = 4.0
    taken = watch.take()
    assert taken is not None
    assert taken.tolist() == [float("-inf"), 4.0, float("-inf")]
    assert watch.take() is None
