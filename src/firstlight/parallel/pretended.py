"""One rank of many, alone: a process group whose other ranks are not there, and tensors without memory.

What such a group gives has the right shape and no meaning. Both come from torch: its own tests use the group, and what
is private there is imported here alone.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from firstlight.models.moe import MixtureOfExperts
from firstlight.parallel.expert_exchange import ExpertExchange, evenly
from firstlight.parallel.expert_slices import ExpertSlices

PRETENDED = torch.device("cpu")
"""Where tensors without memory say that they are: the device that every torch has."""


@contextmanager
def pretending(rank: int, size: int) -> Iterator[None]:
    """Be `rank` of `size` for the length of the block; what has been built on the group must be out of reach then."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        yield
    finally:
        gc.collect()
        # What torch remembers of sharded tensors holds meshes, in which this process is another rank.
        _clear_sharding_prop_cache()
        dist.destroy_process_group()


def without_memory() -> FakeTensorMode:
    """Inside, tensors have shapes, types and a device, and no values. Meshes keep the ranks' numbers in real ones."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def spread_rows_evenly(model: nn.Module) -> None:
    """Let each rank of experts have as many rows as another one: counts without values cannot say more."""
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            run: object = module.run_experts
            while isinstance(run, ExpertExchange | ExpertSlices):
                run.sizes_of = evenly
                run = run.run if isinstance(run, ExpertExchange) else None


class Undecided(TorchDispatchMode):
    """Answers for tensors without values, by which nothing can be decided: a number that is asked for is one, and what
    is counted has a shape."""

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        return _SHAPED.get(func, func)(*args, **(kwargs or {}))


def _counts(numbers: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    assert weights is None, "rows are counted, not weighed"
    return numbers.new_empty(minlength, dtype=torch.int64)


def _grouped_product(
    a: Tensor, b: Tensor, offs: Tensor, bias: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """Rows [n, k] and [e, k, o] to [n, o]; or [k, n] and [n, o], in which n has segments, to [e, k, o]. torch itself
    knows the shapes in bfloat16 alone."""
    assert bias is None, "grouped_linear gives none"
    is_by_row = b.dim() > a.dim()
    shape = (a.shape[0], b.shape[-1]) if is_by_row else (offs.shape[0], a.shape[0], b.shape[-1])
    return a.new_empty(shape, dtype=out_dtype)


_SHAPED: Mapping[Any, Any] = {
    torch.ops.aten.bincount.default: _counts,
    torch.ops.aten._grouped_mm.default: _grouped_product,
}
