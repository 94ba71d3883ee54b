"""Whole matrices from the blocks that ranks hold, and back."""

from collections.abc import Callable

from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def block_of(tensor: Tensor) -> Tensor:
    """This rank's part, the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_of_block(tensor: Tensor) -> slice:
    """Which rows of the whole tensor this rank's part has."""
    if not isinstance(tensor, DTensor):
        return slice(None)
    shape, begin = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return slice(begin[0], begin[0] + shape[0])


def on_whole(block: Tensor, like: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """This rank's block of `compute` of the whole tensor [m, n] or stack of matrices [e, m, n], each of which it treats
    for itself.

    `block` is this rank's part of the tensor, as it has one of `like`. Matrices of a stack that lie here whole stay;
    the rest is gathered, and computed by every rank that has a block of it. Collective over the mesh of `like`.
    """
    if not isinstance(like, DTensor):
        return compute(block)
    mesh, here = like.device_mesh, like.placements
    there = _whole_placements(like)
    given = DTensor.from_local(block, mesh, here, run_check=False, shape=like.shape, stride=like.stride())
    result = compute(given.redistribute(placements=there).to_local())
    shape, begin = compute_local_shape_and_global_offset(like.shape, mesh, here)
    _, origin = compute_local_shape_and_global_offset(like.shape, mesh, there)
    where = (slice(b - o, b - o + size) for b, o, size in zip(begin, origin, shape, strict=True))
    return result[tuple(where)]


def _whole_placements(tensor: DTensor) -> list[Placement]:
    """Those in which this rank has whole matrices."""
    is_stack_cut_plainly = tensor.ndim == 3 and all(type(one) in (Shard, Replicate) for one in tensor.placements)
    return [
        one if is_stack_cut_plainly and isinstance(one, Shard) and one.dim == 0 else Replicate()
        for one in tensor.placements
    ]
