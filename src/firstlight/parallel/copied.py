"""Sums the gradients of parameters of which every rank of a tensor group has a copy: all of them together, once a step.

Until then the gradient of such a copy is what this rank's part of the sequence gives. FSDP would sum each on its own.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from firstlight.layout.buckets import buckets
from firstlight.parallel.device import gradient_sum_dtype

_TENSOR_AXIS = "tp"


class CopiedGradients:
    """Of `model` as FSDP has sharded it: each rank sums the shards that it has."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [parameter for module in model.modules() for parameter in copied_parameters(module)]

    @torch.no_grad()
    def sum(self) -> None:
        """A collective of the tensor group, to be called when all gradients of a step are there."""
        gradients = [parameter.grad for parameter in self._parameters]
        blocks = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
        for places in buckets([block.numel() for block in blocks]):
            together = [blocks[place] for place in places]
            flat = torch.cat([block.flatten() for block in together]).to(gradient_sum_dtype(together[0].device))
            dist.all_reduce(flat, group=self._group())
            for block, total in zip(together, flat.split([block.numel() for block in together]), strict=True):
                block.copy_(total.view_as(block))

    def _group(self) -> dist.ProcessGroup:
        first = self._parameters[0]
        assert isinstance(first, DTensor)
        return first.device_mesh.get_group(_TENSOR_AXIS)


def mark_as_copied(module: nn.Module) -> None:
    """`module`'s own parameters are copies, and their gradients parts of a sum.

    It is the module that remembers: FSDP replaces parameters.
    """
    module.has_copied_parameters = True  # type: ignore[assignment]


def copied_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The own parameters of a module that is marked."""
    is_marked = getattr(module, "has_copied_parameters", False)
    return list(module.parameters(recurse=False)) if is_marked else []
