"""Sums over ranks of which each has a part of every sequence.

Every rank of a tensor group has the whole loss, and those of a context group one balance loss, so a sum passes its
gradient on as it is: what a rank adds to the gradients is summed with the parameters' gradients.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate

from firstlight.models.router import TopKRouter


def summed(term: Tensor, mesh: DeviceMesh) -> Tensor:
    """The sum over the ranks of the one axis of `mesh`."""
    return DTensor.from_local(term, mesh, [Partial()]).redistribute(placements=[Replicate()]).to_local()


def measure_whole_sequences(model: nn.Module, meshes: Sequence[DeviceMesh]) -> None:
    """Let the routers sum what they measure over all ranks that have parts of the same sequences."""
    meshes = [mesh for mesh in meshes if mesh.size() > 1]

    def sum_over_parts(term: Tensor) -> Tensor:
        for mesh in meshes:
            term = summed(term, mesh)
        return term

    for module in model.modules():
        if isinstance(module, TopKRouter):
            module.sum_over_parts = sum_over_parts
            module.num_parts = math.prod(mesh.size() for mesh in meshes)
