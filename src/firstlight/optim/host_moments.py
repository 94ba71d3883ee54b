"""The optimizer's moments in host memory: they visit the device for the update of their parameters, part by part."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

PART_BYTES = 1 << 28
"""Bytes of parameters of which moments are on the device at once."""


class HostMoments:
    """Keeps the moments of one part's optimizer on the host between updates."""

    def __init__(self, adamw: torch.optim.AdamW, names: Sequence[str]) -> None:
        self._adamw = adamw
        self._names = names
        self._host = {
            parameter: {name: _in_host_memory(state[name]) for name in names}
            for parameter, state in adamw.state.items()
        }
        self._let_go()

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """For the length of the block the optimizer's moments are on its parameters' device. Copies back wait."""
        for parameter, moments in self._host.items():
            for name, moment in moments.items():
                self._adamw.state[parameter][name] = moment.to(parameter.device, non_blocking=True, copy=True)
        yield
        for parameter, moments in self._host.items():
            for name, moment in moments.items():
                # Waits: a checkpoint may read the host's memory next.
                _local(moment).copy_(_local(self._adamw.state[parameter][name]))
        self._let_go()

    def _let_go(self) -> None:
        for parameter, moments in self._host.items():
            self._adamw.state[parameter].update(moments)


def parts_of(parameters: Sequence[nn.Parameter], part_bytes: int = PART_BYTES) -> list[list[nn.Parameter]]:
    """Consecutive parameters of at most `part_bytes` on this rank together; a larger one is a part of its own."""
    parts: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        size = _local(parameter).nbytes
        if size > room or not parts:
            parts.append([])
            room = part_bytes
        parts[-1].append(parameter)
        room -= size
    return parts


def _in_host_memory(moment: Tensor) -> Tensor:
    """The same values there, with the same place in the whole where it is a block of one."""
    host = moment.detach().to("cpu", copy=True)
    if isinstance(host, DTensor) and moment.device.type != "cpu":
        host._local_tensor = host._local_tensor.pin_memory()
    elif moment.device.type != "cpu":
        host = host.pin_memory()
    return host


def _local(tensor: Tensor) -> Tensor:
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor
