"""The part of a tensor that this rank holds, and where it lies in the whole."""

from dataclasses import dataclass

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


@dataclass(frozen=True, kw_only=True)
class LocalShard:
    """`data` is this rank's block of a tensor of shape `global_shape`, starting at `offset`.

    `is_written` is true on one of the ranks that hold the same block, so that each byte is saved once.
    """

    data: Tensor
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    is_written: bool


def local_shard(tensor: Tensor, *, is_first_rank: bool) -> LocalShard:
    """The block of `tensor` here. A plain tensor is the same on every rank, and written by the first one."""
    if not isinstance(tensor, DTensor):
        shape = tuple(tensor.shape)
        return LocalShard(data=tensor.detach(), global_shape=shape, offset=(0,) * len(shape), is_written=is_first_rank)
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "this rank is a part of the mesh that it holds a shard of"
    replicas = [
        position for position, placement in zip(coordinate, tensor.placements, strict=True) if placement.is_replicate()
    ]
    data = tensor.to_local().detach()
    return LocalShard(
        data=data,
        global_shape=tuple(tensor.shape),
        offset=tuple(offset),
        is_written=not any(replicas) and data.numel() > 0,
    )
