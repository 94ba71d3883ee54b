"""Modules whose parameters are DTensors and whose mathematics is written for plain tensors.

Inside their forward pass the parameters are this rank's blocks. The gradient of a block is that of the block; the
gradient of a parameter of which every rank has a copy is a part of the whole gradient, which `copied.py` sums later.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, distribute_tensor

Views = Mapping[str, Callable[[Tensor], Tensor]]
_AS_IT_IS: Views = {}


def distribute(
    module: nn.Module, mesh: DeviceMesh, placements: Mapping[str, Sequence[Placement]], *, views: Views = _AS_IT_IS
) -> None:
    """Make `module`'s own parameters DTensors on the axes of `mesh`, and let its forward pass see local ones.

    Of a parameter that `views` names it sees what the function there makes of the block. A module without parameters of
    its own is left as it is.
    """
    own = dict(module.named_parameters(recurse=False))
    for name, parameter in own.items():
        placed = distribute_tensor(parameter.detach(), mesh, placements[name], src_data_rank=None)
        setattr(module, name, nn.Parameter(placed))
    if own:
        module.forward = _on_local_parameters(module, module.forward, views)


def local_part(parameter: Tensor) -> Tensor:
    """This rank's block of a DTensor, with gradients as above; a plain tensor itself."""
    if not isinstance(parameter, DTensor):
        return parameter
    return parameter.to_local()


def _on_local_parameters(module: nn.Module, forward: Callable[..., Any], views: Views) -> Callable[..., Any]:
    def on_local_parameters(*args: Any, **kwargs: Any) -> Any:
        with _local_parameters(module, views):
            return forward(*args, **kwargs)

    return on_local_parameters


@contextmanager
def _local_parameters(module: nn.Module, views: Views) -> Iterator[None]:
    """torch.func.functional_call would run the module's hooks, FSDP's among them, a second time."""
    table: dict[str, Any] = module._parameters
    whole = dict(table)
    blocks = {name: local_part(parameter) for name, parameter in whole.items() if parameter is not None}
    table.update({name: views[name](block) if name in views else block for name, block in blocks.items()})
    try:
        yield
    finally:
        table.update(whole)
