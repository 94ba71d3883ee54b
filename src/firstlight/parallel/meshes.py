"""The device meshes of a layout."""

from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from firstlight.layout.mesh import DENSE_AXES, EXPERT_AXES, Layout


@dataclass(frozen=True, kw_only=True)
class Meshes:
    """The dense mesh and the expert mesh over the same ranks."""

    dense: DeviceMesh
    experts: DeviceMesh

    @classmethod
    def of(cls, layout: Layout, device: torch.device) -> "Meshes":
        """Both meshes. Collective: it creates process groups, whose ranks are those of `layout`."""
        return cls(
            dense=init_device_mesh(device.type, layout.dense_shape, mesh_dim_names=DENSE_AXES),
            experts=init_device_mesh(device.type, layout.expert_shape, mesh_dim_names=EXPERT_AXES),
        )

    def have_experts_apart(self) -> bool:
        """Whether experts are cut otherwise than the rest."""
        return self.dense["tp"].size() > 1 or self.experts["ep"].size() > 1

    def sharding(self) -> DeviceMesh:
        """Over which FSDP shards, and replicates, all but experts that have a unit of their own."""
        return _data_mesh(self.dense, "dp_shard")

    def expert_sharding(self) -> DeviceMesh:
        """The same for the experts."""
        return _data_mesh(self.experts, "edp")


def _data_mesh(mesh: DeviceMesh, shard_axis: str) -> DeviceMesh:
    return mesh["dp_replicate", shard_axis] if mesh["dp_replicate"].size() > 1 else mesh[shard_axis]
