"""Reading as one rank does it, with the reason raised instead of logged."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from firstlight.checkpoint.manifest import Manifest
from firstlight.checkpoint.reader import ReadPlan
from firstlight.checkpoint.shards import LocalShard, local_shard


def read_shards(folder: Path, manifest: Manifest, shards: Mapping[str, LocalShard]) -> int:
    """Fill `shards`; the number of bytes of tensors that were read."""
    return ReadPlan(folder, manifest, shards).read()


def read_tensors(folder: Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> int:
    """The same for whole tensors."""
    return read_shards(
        folder, manifest, {name: local_shard(tensor, is_first_rank=False) for name, tensor in tensors.items()}
    )
