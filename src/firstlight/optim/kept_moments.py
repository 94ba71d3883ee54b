"""Moments in host memory or in bfloat16: they come to the device in full for the update of their parameters, part by
part."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from firstlight.optim.rule import Keeping, Moments

PART_BYTES = 1 << 28
"""Bytes of parameters of which moments are on the device in full at once."""


class KeptMoments:
    """Keeps the moments of one part's parameters between updates as `keeping` says."""

    def __init__(self, state: Moments, names: Sequence[str], keeping: Keeping) -> None:
        self._state = state
        self._kept = {
            parameter: {name: put_away(moments[name], keeping) for name in names}
            for parameter, moments in state.items()
        }
        self._let_go()

    @contextmanager
    def in_full(self) -> Iterator[None]:
        """For the length of the block moments are on their parameters' device in their type. Copies back wait."""
        for parameter, moments in self._kept.items():
            for name, moment in moments.items():
                brought = moment.to(parameter.device, parameter.dtype, non_blocking=True, copy=True)
                self._state[parameter][name] = brought
        yield
        for parameter, moments in self._kept.items():
            for name, moment in moments.items():
                # Waits: a checkpoint may read the host's memory next.
                local_of(moment).copy_(local_of(self._state[parameter][name]))
        self._let_go()

    def _let_go(self) -> None:
        for parameter, moments in self._kept.items():
            self._state[parameter].update(moments)


def parts_of(parameters: Sequence[nn.Parameter], part_bytes: int = PART_BYTES) -> list[list[nn.Parameter]]:
    """Consecutive parameters of at most `part_bytes` on this rank together; a larger one is a part of its own."""
    parts: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        size = local_of(parameter).nbytes
        if size > room or not parts:
            parts.append([])
            room = part_bytes
        parts[-1].append(parameter)
        room -= size
    return parts


def put_away(moment: Tensor, keeping: Keeping) -> Tensor:
    """The same values there, with the same place in the whole where it is a block of one."""
    dtype = torch.bfloat16 if keeping.in_bf16 else moment.dtype
    kept = moment.detach().to("cpu" if keeping.in_host else moment.device, dtype, copy=True)
    if not keeping.in_host or moment.device.type == "cpu":
        return kept
    if isinstance(kept, DTensor):
        kept._local_tensor = kept._local_tensor.pin_memory()
        return kept
    return kept.pin_memory()


def local_of(tensor: Tensor) -> Tensor:
    """This rank's block, the tensor itself where it is whole."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor
