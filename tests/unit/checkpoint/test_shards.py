"""Which part of a tensor a rank holds, and which of the ranks that hold the same part writes it."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from firstlight.checkpoint.shards import LocalShard, local_shard
from tests.unit.checkpoint.group import as_rank


def shard_of(rank: int, *, rows: int, replicas: int, shards: int) -> LocalShard:
    """What `rank` holds of rows that are sharded over `shards` ranks, in `replicas` copies."""
    whole = torch.arange(rows * 2.0).view(rows, 2)
    with as_rank(rank, replicas * shards):
        mesh = init_device_mesh("cpu", (replicas, shards), mesh_dim_names=("dp_replicate", "dp_shard"))
        blocks = whole.chunk(shards)
        mine = rank % shards
        block = blocks[mine] if mine < len(blocks) else whole[:0]
        tensor = DTensor.from_local(
            block, mesh, [Replicate(), Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
        )
        return local_shard(tensor, is_first_rank=rank == 0)


@pytest.mark.parametrize(
    ("rows", "replicas", "shards"), [(8, 1, 1), (8, 1, 4), (7, 1, 4), (5, 1, 4), (3, 1, 4), (8, 4, 1), (7, 2, 2)]
)
def test_the_written_shards_are_the_whole_once(rows: int, replicas: int, shards: int) -> None:
    whole = torch.arange(rows * 2.0).view(rows, 2)
    held = [shard_of(rank, rows=rows, replicas=replicas, shards=shards) for rank in range(replicas * shards)]
    assert all(shard.global_shape == (rows, 2) for shard in held)
    for shard in held:
        begin = shard.offset[0]
        assert shard.data.equal(whole[begin : begin + len(shard.data)])
    written = [shard for shard in held if shard.is_written]
    assert torch.cat([shard.data for shard in written]).equal(whole)
    assert all(len(shard.data) for shard in written)


@pytest.mark.parametrize("is_first_rank", [True, False])
def test_a_plain_tensor_is_written_by_the_first_rank(is_first_rank: bool) -> None:
    tensor = torch.zeros(2, 3)
    shard = local_shard(tensor, is_first_rank=is_first_rank)
    assert (shard.global_shape, shard.offset, shard.is_written) == ((2, 3), (0, 0), is_first_rank)
    assert shard.data.data_ptr() == tensor.data_ptr()


def test_a_parameter_is_held_without_its_graph() -> None:
    shard = local_shard(torch.nn.Parameter(torch.zeros(2)), is_first_rank=True)
    assert not shard.data.requires_grad
