"""The device meshes of a layout."""

from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from firstlight.layout.mesh import EXPERT_AXES, PARAMETER_AXES, RANK_AXES, Layout


@dataclass(frozen=True, kw_only=True)
class Meshes:
    """The meshes of the parameters, of the experts, and of samples and positions, over the same ranks.

    `ranks` is there when a context group is: no other axis needs it.
    """

    parameters: DeviceMesh
    experts: DeviceMesh
    ranks: DeviceMesh | None

    @classmethod
    def of(cls, layout: Layout, device: torch.device) -> "Meshes":
        """All meshes. Collective: it creates process groups, whose ranks are those of `layout`."""
        kind = device.type
        has_context = layout.cp > 1
        return cls(
            parameters=init_device_mesh(kind, layout.parameter_shape, mesh_dim_names=PARAMETER_AXES),
            experts=init_device_mesh(kind, layout.expert_shape, mesh_dim_names=EXPERT_AXES),
            ranks=init_device_mesh(kind, layout.rank_shape, mesh_dim_names=RANK_AXES) if has_context else None,
        )

    def have_experts_apart(self) -> bool:
        """Whether experts are cut otherwise than the rest."""
        return self.parameters["tp"].size() > 1 or self.experts["ep"].size() > 1

    def sharding(self) -> DeviceMesh:
        """Over which FSDP shards, and replicates, all but experts that have a unit of their own."""
        return _data_mesh(self.parameters, "shard")

    def expert_sharding(self) -> DeviceMesh:
        """The same for the experts."""
        return _data_mesh(self.experts, "edp")


def _data_mesh(mesh: DeviceMesh, shard_axis: str) -> DeviceMesh:
    return mesh["dp_replicate", shard_axis] if mesh["dp_replicate"].size() > 1 else mesh[shard_axis]
