"""Attention in blocks of queries against its definition, over several blocks, and as an operator of torch."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from firstlight.base.causal_blocks import BLOCK, MAX_LENGTH, num_scores
from firstlight.ops import attention_cpu
from firstlight.ops.attention import Visibility, causal_attention, reference_causal_attention
from tests.unit.ops.test_attention import SIZES, heads

LENGTHS = (1, BLOCK, BLOCK + 1, 2 * BLOCK + 22)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("sizes", [SIZES["grouped"], SIZES["narrow_value"]], ids=["grouped", "narrow_value"])
@pytest.mark.parametrize("has_documents", [False, True], ids=["whole", "documents"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_blocks_equal_the_reference(
    length: int, sizes: tuple[int, int, int, int], has_documents: bool, dtype: torch.dtype, tolerance: float
) -> None:
    fast, exact = heads(sizes, length=length, dtype=dtype), heads(sizes, length=length)
    visibility = Visibility((torch.arange(length) // 50).expand(2, length)) if has_documents else None
    assert attention_cpu.takes(fast[0], fast[1])
    out = causal_attention(*fast, scale=0.37, visibility=visibility)
    expected = reference_causal_attention(*exact, scale=0.37, visibility=visibility)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=tolerance)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (out * weights.to(dtype)).sum().backward()
    (expected * weights).sum().backward()
    for ours, theirs in zip(fast, exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0, atol=20 * tolerance)


def operator_inputs(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    return *heads(SIZES["grouped"], length=length), mask, 0.4


def test_it_is_an_operator_as_torch_wants_them() -> None:
    # The softmax it gives beside the result is for its own backward pass: gradients of that are of no use.
    torch.library.opcheck(
        torch.ops.firstlight.causal_attention.default,
        operator_inputs(70),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_what_is_kept_has_the_size_that_plans_count() -> None:
    query, key, value, mask, scale = operator_inputs(2 * BLOCK + 22)
    _, kept = torch.ops.firstlight.causal_attention(query, key, value, mask, scale)
    assert kept.numel() == query.shape[0] * query.shape[1] * num_scores(query.shape[2])


def test_long_sequences_and_other_types_are_for_the_kernel_of_torch() -> None:
    short, long = heads(SIZES["plain"], length=MAX_LENGTH), heads(SIZES["plain"], length=MAX_LENGTH + 1)
    assert attention_cpu.takes(*short[:2])
    assert not attention_cpu.takes(*long[:2])
    assert not attention_cpu.takes(short[0].bfloat16(), short[1].bfloat16())


def test_the_counter_of_torch_sees_its_work() -> None:
    query, key, value = heads(SIZES["narrow_value"], length=70)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        causal_attention(query, key, value, scale=0.3)
    # A block of 64 queries sees 64 keys, the one of 6 all 70; keys are 24 wide, values 16.
    assert counter.get_total_flops() == 2 * 2 * 4 * (64 * 64 + 6 * 70) * (24 + 16)
