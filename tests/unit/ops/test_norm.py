"""The norm against its definition, forward and backward, and what it keeps."""

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from firstlight.ops.norm import reference_rms_norm, rms_norm

EPS = 1e-5


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normal values that want a gradient."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).requires_grad_()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("shape", [(2, 5, 16), (2, 3, 5, 8), (1, 256)], ids=str)
def test_norm_equals_its_definition(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    x, weight = drawn(*shape, dtype=dtype), drawn(shape[-1], dtype=dtype, seed=1)
    exact_x, exact_weight = (one.detach().double().requires_grad_() for one in (x, weight))
    factors = drawn(*shape, dtype=dtype, seed=2).detach()
    out, expected = rms_norm(x, weight, EPS), reference_rms_norm(exact_x, exact_weight, EPS)
    assert out.dtype == dtype
    (out * factors).sum().backward()
    (expected * factors.double()).sum().backward()
    for ours, theirs in [(out, expected), (x.grad, exact_x.grad), (weight.grad, exact_weight.grad)]:
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


def test_norm_of_a_view_is_that_of_its_values() -> None:
    joined = drawn(3, 4, 12, dtype=torch.float64)
    weight = drawn(8, dtype=torch.float64, seed=1)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x[..., :8], w, EPS), (joined, weight))


def test_sums_are_in_fp32_at_least() -> None:
    # In bfloat16 a sum of 4,096 squares of one stops at 256.
    x = torch.ones(1, 4096, dtype=torch.bfloat16)
    assert rms_norm(x, torch.ones(4096, dtype=torch.bfloat16), 0.0)[0, 0].item() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_input_and_a_number_of_each_row_are_kept(dtype: torch.dtype) -> None:
    x, weight = drawn(6, 32, dtype=dtype), drawn(32, dtype=dtype, seed=1)
    kept: list[int] = []

    def note(saved: Tensor) -> Tensor:
        kept.append(0 if saved.data_ptr() in (x.data_ptr(), weight.data_ptr()) else saved.untyped_storage().nbytes())
        return saved

    with saved_tensors_hooks(note, lambda saved: saved):
        rms_norm(x, weight, EPS)
    assert sum(kept) == 6 * 4
