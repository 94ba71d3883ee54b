"""What a rank's layers give and what gradients they make, as digests in the order in which they come.

On the inside of FSDP's hooks, so that weights are whole, and gradients of weights not summed over ranks yet: what is
wrong there is this rank's own work.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from firstlight.models.decoder import Decoder
from firstlight.models.family import units_of
from firstlight.parallel.digests import Digests
from firstlight.parallel.engine import Engine
from firstlight.parallel.rows import HostBatch


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A tensor that came by. `is_own`: whether this rank has computed it, from what came before."""

    what: str
    digest: Tensor
    is_own: bool
    micro_batch: int
    """Forward passes of a stage before the last one."""


class Digest(Protocol):
    """Makes a number of a tensor."""

    def of(self, tensor: Tensor) -> Tensor:
        """An integer [], on the tensor's device."""


class Finiteness:
    """1 where all of a tensor is finite, else 0."""

    @torch.no_grad()
    def of(self, tensor: Tensor) -> Tensor:
        """See Digest."""
        return torch.isfinite(tensor).all().long()


@dataclass(kw_only=True)
class Probe:
    """Watches the stages of this rank, while asked to."""

    stages: Sequence[Decoder]
    digests: Digest = field(default_factory=Digests)
    signs: list[Sign] = field(default_factory=list)
    _num_passes: int = 0
    _handles: list[RemovableHandle] = field(default_factory=list)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Collect `signs` anew for the length of the block."""
        self.signs, self._num_passes = [], 0
        self._handles = [handle for stage in self.stages for handle in self._hooks(stage)]
        try:
            yield
        finally:
            # Those on weights as well, which outlive the block.
            for handle in self._handles:
                handle.remove()

    def signs_of(self, engine: Engine, rows: HostBatch) -> list[Sign]:
        """What comes by in a forward and backward pass, whose gradients are then forgotten. Collective."""
        with self.watching():
            engine.forward_backward(rows)
            self.take_sums()
        for stage in self.stages:
            for parameter in stage.parameters():
                parameter.grad = None
        return self.signs

    def take_sums(self) -> None:
        """Add the gradients as they are now, summed over micro-batches and ranks."""
        for stage in self.stages:
            for name, parameter in stage.named_parameters():
                if parameter.grad is not None:
                    self.add(f"the summed gradient of {name}", parameter.grad, is_own=False)

    def _hooks(self, stage: Decoder) -> Iterator[RemovableHandle]:
        """On the stage as a whole for what other ranks give it, on layers, and on whatever has parameters."""
        units = {id(unit) for unit in units_of(stage)}
        yield stage.register_forward_pre_hook(self._entered)
        yield stage.register_forward_hook(self._left)
        for name, module in stage.named_modules():
            if id(module) in units:
                yield module.register_forward_pre_hook(_Before(self, name))
                yield module.register_forward_hook(_After(self, name))
            if any(True for _ in module.parameters(recurse=False)):
                yield module.register_forward_pre_hook(_Weights(self, name))

    def _entered(self, _stage: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._num_passes += 1
        for tensor in _tensors(arguments):
            self.add("what the first layer is given", tensor, is_own=False)

    def _left(self, _stage: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
        for tensor in _tensors(output):
            self.add("what the last layer gives", tensor, is_own=True)
            self.on_gradient(tensor, "what the last layer is given backward", is_own=False)

    def on_gradient(self, tensor: Tensor, what: str, *, is_own: bool) -> None:
        """Note the gradient of `tensor` when it comes."""
        if tensor.requires_grad:
            self._handles.append(tensor.register_hook(lambda gradient: self.add(what, gradient, is_own=is_own)))

    def add(self, what: str, tensor: Tensor, *, is_own: bool) -> None:
        """Note a tensor."""
        block = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        plain = what.replace("_checkpoint_wrapped_module.", "")
        digest = self.digests.of(block)
        self.signs.append(Sign(what=plain, digest=digest, is_own=is_own, micro_batch=max(self._num_passes - 1, 0)))


@dataclass(frozen=True)
class _Before:
    """Notes the gradient that a layer makes for what it was given."""

    probe: Probe
    name: str

    def __call__(self, _module: nn.Module, arguments: tuple[Any, ...]) -> None:
        for tensor in _tensors(arguments):
            self.probe.on_gradient(tensor, f"the gradient that {self.name} hands on", is_own=True)


@dataclass(frozen=True)
class _After:
    """Notes what a layer gives."""

    probe: Probe
    name: str

    def __call__(self, _module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
        for tensor in _tensors(output):
            self.probe.add(f"what {self.name} gives", tensor, is_own=True)


@dataclass(frozen=True)
class _Weights:
    """Notes the gradients of a module's own weights."""

    probe: Probe
    name: str

    def __call__(self, module: nn.Module, _arguments: tuple[Any, ...]) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            self.probe.on_gradient(parameter, f"the gradient of {self.name}.{name}", is_own=True)


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)
