"""The output head's loss against torch's cross-entropy on the positions that count."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from firstlight.ops.cross_entropy import (
    BLOCK,
    reference_summed_cross_entropy,
    summed_cross_entropy,
    summed_cross_entropy_and_z,
)


def head(*, tokens: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states and weights that want gradients, and labels."""
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = (0.3 * torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,), generator=generator)


@pytest.mark.parametrize("sizes", [(11, 8, 17), (700, 32, 1030)], ids=["small", "several_blocks"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_sum_over_unmasked_positions(sizes: tuple[int, int, int], dtype: torch.dtype, tolerance: float) -> None:
    tokens, width, vocabulary = sizes
    hidden, weight, labels = head(tokens=tokens, width=width, vocabulary=vocabulary, dtype=dtype)
    mask = (torch.rand(tokens, generator=torch.Generator().manual_seed(6)) < 0.6).float()
    exact_hidden, exact_weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    kept = mask.bool()
    logits = exact_hidden[kept] @ exact_weight.T
    expected = -(logits.log_softmax(-1)[torch.arange(int(kept.sum())), labels[kept]]).sum()
    loss = summed_cross_entropy(hidden, weight, labels, mask)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    (3 * loss).backward()
    (3 * expected).backward()
    for ours, theirs in [(hidden.grad, exact_hidden.grad), (weight.grad, exact_weight.grad)]:
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()
    assert not hidden.grad[~kept].any()


def test_label_of_a_masked_position_may_be_anything() -> None:
    hidden, weight, labels = head(tokens=6, width=8, vocabulary=17, dtype=torch.float64)
    mask = torch.tensor([1.0, 0, 1, 0, 0, 1])
    expected = F.cross_entropy((hidden @ weight.T)[mask.bool()], labels[mask.bool()], reduction="sum")
    labels[1], labels[3], labels[4] = -7, 17, 10**9
    torch.testing.assert_close(summed_cross_entropy(hidden, weight, labels, mask), expected)


def test_ignored_label_of_torch_is_no_mask_of_ours() -> None:
    # Only the mask leaves a position out; a label that torch would ignore must not do so silently.
    hidden, weight, labels = head(tokens=3, width=8, vocabulary=17, dtype=torch.float64)
    loss = summed_cross_entropy(hidden, weight, labels, torch.ones(3))
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ weight.T, labels, reduction="sum"))


def test_logits_of_many_positions_are_no_result_of_any_operator() -> None:
    hidden, weight, labels = head(tokens=1100, width=8, vocabulary=4000, dtype=torch.float32)
    with LargestResult() as seen:
        summed_cross_entropy(hidden, weight, labels, torch.ones(1100)).backward()
    assert seen.size <= BLOCK * 4000
    with LargestResult() as seen:
        reference_summed_cross_entropy(hidden, weight, labels, torch.ones(1100)).backward()
    assert seen.size == 1100 * 4000


class LargestResult(TorchDispatchMode):
    """The most elements that any operator's result has in the block."""

    size = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.size = max([self.size, *(one.numel() for one in tree_leaves(out) if isinstance(one, Tensor))])
        return out


def test_nothing_to_predict_costs_nothing() -> None:
    hidden, weight, labels = head(tokens=6, width=8, vocabulary=17, dtype=torch.float32)
    loss = summed_cross_entropy(hidden, weight, labels, torch.zeros(6))
    loss.backward()
    assert loss.item() == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_gradients_are_those_of_the_function() -> None:
    hidden, weight, labels = head(tokens=4, width=3, vocabulary=5, dtype=torch.float64)
    mask = torch.tensor([1.0, 0, 1, 1])
    assert torch.autograd.gradcheck(lambda h, w: summed_cross_entropy(h, w, labels, mask), (hidden, weight))


@pytest.mark.parametrize("soft_cap", [None, 0.7])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_the_squared_log_sum_comes_with_the_loss(soft_cap: float | None, dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, labels = head(tokens=20, width=8, vocabulary=17, dtype=dtype)
    mask = (torch.arange(20) % 3 > 0).float()
    exact_hidden, exact_weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    kept = mask.bool()
    logits = exact_hidden[kept] @ exact_weight.T
    if soft_cap is not None:
        logits = soft_cap * (logits / soft_cap).tanh()
    expected = F.cross_entropy(logits, labels[kept], reduction="sum"), logits.exp().sum(-1).log().square().sum()
    labels[~kept] = 10**9
    loss, z = summed_cross_entropy_and_z(hidden, weight, labels, mask, soft_cap=soft_cap)
    assert [loss.item(), z.item()] == pytest.approx([one.item() for one in expected], rel=tolerance)
    (loss + 0.3 * z).backward()
    (expected[0] + 0.3 * expected[1]).backward()
    for ours, theirs in [(hidden.grad, exact_hidden.grad), (weight.grad, exact_weight.grad)]:
        assert (ours.double() - theirs).norm() <= 2 * tolerance * theirs.norm()
