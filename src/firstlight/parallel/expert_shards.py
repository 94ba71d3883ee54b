"""Along which dimension FSDP shards a parameter."""

from collections.abc import Callable

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from firstlight.models.moe import Experts

_WIDTH = 1
"""Of stacked experts [e, out, in] and their biases [e, out]."""


def shard_dimensions(model: nn.Module, mesh: DeviceMesh) -> Callable[[nn.Parameter], Shard | None]:
    """Experts that do not come out even over the ranks of `mesh` are cut by their width, where that does.

    Cut by the expert, some ranks would hold more than others, and with fewer experts than ranks some would hold none.
    None leaves the choice to FSDP: the first dimension. The last axis of `mesh` is the one that shards.
    """
    ranks = mesh.size(mesh.ndim - 1)
    of_experts = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, Experts)
        for parameter in module.parameters(recurse=False)
    }

    def dimension(parameter: nn.Parameter) -> Shard | None:
        if id(parameter) not in of_experts:
            return None
        here = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        experts, width = here.shape[0], here.shape[_WIDTH]
        return Shard(_WIDTH) if experts % ranks and width % ranks == 0 else None

    return dimension
