"""Faults that users plant to rehearse (`resilience.inject`): the real thing, in the real process."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from firstlight.base.log import get_logger
from firstlight.config.faults import FaultKind, PlantedFault
from firstlight.parallel.local_parameters import local_part

_FOR_EVER_SECONDS = 10**6
_SPIKE = 1e4
_HIGH_EXPONENT_BIT = 30


class PlantedFaults:
    """The faults of this rank, each of which happens once in the run: `marks` remembers."""

    def __init__(
        self,
        faults: Sequence[PlantedFault],
        parameters: Sequence[Tensor],
        *,
        layer: nn.Module,
        rank: int,
        marks: Path,
    ) -> None:
        """`parameters` are this rank's, `layer` is one of its layers."""
        self._marks = marks
        self._parameters = parameters
        self._layer = layer
        self._miscomputing: RemovableHandle | None = None
        self._mine = {number: fault for number, fault in enumerate(faults) if fault.rank == rank}

    def before_step(self, step: int) -> None:
        """What happens to the process in this step."""
        for fault in self._due(step, _OF_PROCESS):
            _OF_PROCESS[fault.kind](fault)
        for fault in self._due(step, _TIMES):
            self._miscomputing = self._layer.register_forward_hook(_Miscompute(_TIMES[fault.kind]))

    def before_update(self, step: int) -> None:
        """What happens to gradients, or to a weight, in this step."""
        if self._miscomputing is not None:
            self._miscomputing.remove()
        for fault in self._due(step, _OF_NUMBERS):
            _OF_NUMBERS[fault.kind](self._parameters)

    def _due(self, step: int, kinds: Mapping[FaultKind, object]) -> Iterator[PlantedFault]:
        for number, fault in self._mine.items():
            if fault.step == step and fault.kind in kinds and self._is_first_time(number):
                get_logger().warning(f"planted fault: {fault.kind} of rank {fault.rank} in step {step}")
                yield fault

    def _is_first_time(self, number: int) -> bool:
        """Marks it, durably: what follows may end this process."""
        self._marks.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self._marks / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        os.fsync(descriptor)
        os.close(descriptor)
        return True


def _end_by(number: signal.Signals) -> Callable[[PlantedFault], None]:
    def act(_fault: PlantedFault) -> None:
        os.kill(os.getpid(), number)

    return act


def _raise(fault: PlantedFault) -> NoReturn:
    raise RuntimeError(f"a planted fault of rank {fault.rank} in step {fault.step}")


def _hold_interpreter(_fault: PlantedFault) -> None:
    while True:  # a signal ends the sleep
        ctypes.PyDLL(None).sleep(_FOR_EVER_SECONDS)  # unlike CDLL, it keeps the interpreter's lock


_OF_PROCESS: Mapping[FaultKind, Callable[[PlantedFault], None]] = {
    "kill": _end_by(signal.SIGKILL),
    "stop": _end_by(signal.SIGSTOP),
    "segfault": _end_by(signal.SIGSEGV),
    "raise": _raise,
    "hold_interpreter": _hold_interpreter,
    "hang": lambda _fault: time.sleep(_FOR_EVER_SECONDS),
    "slow": lambda fault: time.sleep(fault.seconds),
}


@torch.no_grad()
def _not_finite(parameters: Sequence[Tensor]) -> None:
    next(_gradients(parameters)).view(-1)[0] = float("nan")


@torch.no_grad()
def _spike(parameters: Sequence[Tensor]) -> None:
    for gradient in _gradients(parameters):
        gradient.mul_(_SPIKE)


@torch.no_grad()
def _flip_bit(parameters: Sequence[Tensor]) -> None:
    blocks = (local_part(parameter.detach()) for parameter in parameters if parameter.dtype == torch.float32)
    first = next(block for block in blocks if block.numel())
    first.view(-1)[:1].view(torch.int32).bitwise_xor_(1 << _HIGH_EXPONENT_BIT)


_TIMES: Mapping[FaultKind, int] = {"miscompute": 1, "keep_miscomputing": sys.maxsize}


class _Miscompute:
    """A hook that makes the first number of what a layer gives wrong, so many times, each time otherwise."""

    def __init__(self, times: int) -> None:
        self._left = times
        self._done = 0

    def __call__(self, _module: nn.Module, _arguments: object, output: Any) -> Any:
        if self._left == self._done:
            return output
        self._done += 1
        first, *others = output if isinstance(output, tuple) else (output,)
        wrong = torch.zeros_like(first)
        wrong.view(-1)[0] = 0.5 * self._done
        return (first + wrong, *others) if isinstance(output, tuple) else first + wrong


def _gradients(parameters: Sequence[Tensor]) -> Iterator[Tensor]:
    """This rank's blocks of them, as far as it has any."""
    gradients = (local_part(parameter.grad) for parameter in parameters if parameter.grad is not None)
    return (gradient for gradient in gradients if gradient.numel())


_OF_NUMBERS: Mapping[FaultKind, Callable[[Sequence[Tensor]], None]] = {
    "not_finite": _not_finite,
    "spike": _spike,
    "flip_bit": _flip_bit,
}
