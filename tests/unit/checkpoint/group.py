"""This process as any rank of any group, for what needs a mesh but no communication."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextmanager
def as_rank(rank: int, size: int) -> Iterator[None]:
    """This process as a rank of a group whose collectives do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()
        # Meshes of different ranks are equal, and the cache would give this rank's to the next one.
        _clear_sharding_prop_cache()
