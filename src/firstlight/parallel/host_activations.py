"""Moves what layers keep for the backward pass to host memory, and back when the backward pass asks for it.

Copies run in order with the computation, from and to pinned memory: they free the device, and cost its bandwidth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    ActivationWrapper,
    apply_activation_checkpointing,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.multiprocessing.reductions import StorageWeakRef

_SMALLEST_BYTES = 1 << 10
"""What is smaller stays: moving it costs more than it frees."""

HostCopy = Callable[[Tensor], Tensor]
"""The copy of a plain tensor in host memory."""


@dataclass(frozen=True, kw_only=True)
class _Away:
    """A tensor that waits in host memory; of a distributed one, the part that is here."""

    copy: Tensor
    device: torch.device
    spec: DTensorSpec | None = None
    """What the whole of a distributed one is like."""


class HostActivations:
    """The copies of one forward pass of one module. What is saved twice is copied once; parameters stay."""

    def __init__(self, module: nn.Module, to_host: HostCopy) -> None:
        self._module = module
        self._to_host = to_host
        self._copies: dict[tuple[Any, ...], tuple[StorageWeakRef, Tensor]] = {}

    def pack(self, saved: Tensor) -> Tensor | _Away:
        """What the graph holds in the place of `saved`."""
        if isinstance(saved, AsyncCollectiveTensor):
            saved = saved.wait()
        here = saved._local_tensor if isinstance(saved, DTensor) else saved
        if here.nbytes < _SMALLEST_BYTES or here.untyped_storage().data_ptr() in self._parameter_storages():
            return saved
        spec = saved._spec if isinstance(saved, DTensor) else None
        return _Away(copy=self._copy_of(here), device=here.device, spec=spec)

    def unpack(self, held: Tensor | _Away) -> Tensor:
        """The tensor again."""
        if not isinstance(held, _Away):
            return held
        here = held.copy.to(held.device, non_blocking=True)
        if held.spec is None:
            return here
        spec = held.spec
        return DTensor.from_local(
            here, spec.mesh, spec.placements, run_check=False, shape=spec.shape, stride=spec.stride
        )

    def _copy_of(self, here: Tensor) -> Tensor:
        storage = here.untyped_storage()
        key = (storage.data_ptr(), here.storage_offset(), here.shape, here.stride(), here.dtype, here._version)
        # An address may have been given away again; a storage that is alive has not moved.
        known = self._copies.get(key)
        if known is not None and not known[0].expired():
            return known[1]
        copy = self._to_host(here)
        self._copies[key] = (StorageWeakRef(storage), copy)
        return copy

    def _parameter_storages(self) -> set[int]:
        """Where the parameters are now: those that FSDP gathers come and go."""
        locals_ = (p._local_tensor if isinstance(p, DTensor) else p for p in self._module.parameters())
        return {parameter.untyped_storage().data_ptr() for parameter in locals_}


class OffloadedModule(ActivationWrapper):
    """A module whose saved activations wait in host memory."""

    def __init__(self, module: nn.Module, to_host: HostCopy) -> None:
        super().__init__(module)  # type: ignore[no-untyped-call]
        self._to_host = to_host

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        copies = HostActivations(self._checkpoint_wrapped_module, self._to_host)
        with saved_tensors_hooks(copies.pack, copies.unpack):
            return self._checkpoint_wrapped_module(*args, **kwargs)


def pinned_copy(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, ordered with what runs on the device; plain memory where the device is the CPU."""
    copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type != "cpu")
    return copy.copy_(tensor, non_blocking=True)


def offload_activations(model: nn.Module, layers: list[nn.Module], to_host: HostCopy = pinned_copy) -> None:
    """Wrap `layers`. Of layers that recompute, what they keep is moved: their inputs, not what is computed again."""
    chosen = {id(layer) for layer in layers}
    apply_activation_checkpointing(
        model,
        checkpoint_wrapper_fn=partial(OffloadedModule, to_host=to_host),
        check_fn=lambda module: id(module) in chosen,
    )
