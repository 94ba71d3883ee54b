"""The device meshes of a layout."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from firstlight.layout.mesh import CONTEXT_AXES, EXPERT_AXES, PARAMETER_AXES, Layout


@dataclass(frozen=True, kw_only=True)
class Meshes:
    """The meshes of the parameters, of the experts, and of the parts of a sequence, over the same ranks.

    `context` is there when a context group is: no other axis needs it.
    """

    parameters: DeviceMesh
    experts: DeviceMesh
    context: DeviceMesh | None

    @classmethod
    def of(cls, layout: Layout, device: torch.device) -> "Meshes":
        """All meshes. Collective: it creates process groups, whose ranks are those of `layout`."""
        kind = device.type
        return cls(
            parameters=init_device_mesh(kind, layout.parameter_shape, mesh_dim_names=PARAMETER_AXES),
            experts=init_device_mesh(kind, layout.expert_shape, mesh_dim_names=EXPERT_AXES),
            context=init_device_mesh(kind, layout.context_shape, mesh_dim_names=CONTEXT_AXES)
            if layout.cp > 1
            else None,
        )

    def have_experts_apart(self) -> bool:
        """Whether experts are cut otherwise than the rest."""
        return self.parameters["tp"].size() > 1 or self.of_experts() is not None

    def of_experts(self) -> DeviceMesh | None:
        """The axes `ep` and `etp`, those of them with several ranks; None when every rank has all experts."""
        axes = tuple(axis for axis in ("ep", "etp") if self.experts[axis].size() > 1)
        return self.experts[axes] if axes else None

    def of_parts(self) -> list[DeviceMesh]:
        """One mesh of one axis for each way in which sequences are cut."""
        if self.context is None:
            return [self.parameters["tp"]]
        return [self.context[axis] for axis in ("ring", "heads", "tp")]

    def pipeline_group(self) -> dist.ProcessGroup | None:
        """The ranks that have all stages together; None without a pipeline. Collective: it may create the group."""
        mesh = self.parameters["pp"]
        if mesh.size() == 1:
            return None
        if mesh.size() < dist.get_world_size():
            return mesh.get_group()
        # The mesh takes the group of all ranks then, whose calls torch's debug mode counts: stages in the middle send
        # more often than those at the ends.
        group: dist.ProcessGroup = dist.new_group()
        return group

    def sharding(self) -> DeviceMesh:
        """Over which FSDP shards, and replicates, all but experts that have a unit of their own."""
        return _data_mesh(self.parameters, "shard")

    def expert_sharding(self) -> DeviceMesh:
        """The same for the experts."""
        return _data_mesh(self.experts, "edp")


def _data_mesh(mesh: DeviceMesh, shard_axis: str) -> DeviceMesh:
    return mesh["dp_replicate", shard_axis] if mesh["dp_replicate"].size() > 1 else mesh[shard_axis]
