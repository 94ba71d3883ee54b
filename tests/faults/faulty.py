"""A rank with a planted fault: `python -m tests.faults.faulty FAULT ARGUMENTS...`, started by tests.faults.launcher.

The last rank fails, unless the fault says otherwise; the moment is written to the file `fault-RANK` of the folder.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from firstlight.base.errors import InputError
from firstlight.base.report import LossReport
from firstlight.base.world import World
from firstlight.cli.main import main
from firstlight.parallel.engine import HostBatch, PlainEngine
from firstlight.train import train as train_module

FAULTY_STEP = 2

WORLD = World.from_environment()
IS_LAST = WORLD.rank == WORLD.size - 1


def mark() -> None:
    Path(f"fault-{WORLD.rank}").write_text(f"{time.time()} {os.getpid()}")


def instead_of_a_step(act: Callable[[], None]) -> None:
    """Have `act` called in the last rank in step FAULTY_STEP, before it takes part; the others wait for it."""
    real, calls = PlainEngine.forward_backward, iter(range(1, 1000))

    def forward_backward(engine: PlainEngine, batch: HostBatch) -> LossReport:
        if next(calls) == FAULTY_STEP and IS_LAST:
            act()
        return real(engine, batch)

    PlainEngine.forward_backward = forward_backward


def raise_bug() -> NoReturn:
    mark()
    raise ValueError("a planted bug")


def kill_in_collective() -> NoReturn:
    """This rank is in a collective with the others when it is killed: it has issued the all-reduce, and is gone."""
    dist.all_reduce(torch.zeros(1), async_op=True)
    mark()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still here")


def run_out_of_memory() -> NoReturn:
    mark()
    torch.empty(2**60, dtype=torch.uint8)
    raise AssertionError("so much memory")


def fail_beside_sleepers() -> None:
    """The others are in no collective and do not listen."""
    real, calls = PlainEngine.forward_backward, iter(range(1, 1000))

    def forward_backward(engine: PlainEngine, batch: HostBatch) -> LossReport:
        if next(calls) == FAULTY_STEP:
            if IS_LAST:
                raise_bug()
            time.sleep(600)
        return real(engine, batch)

    PlainEngine.forward_backward = forward_backward


def before_joining(error: Exception, *, everywhere: bool) -> None:
    """Fail before the process group exists."""
    real = train_module.pick_device

    def pick_device(local_rank: int, **sizes: Any) -> torch.device:
        if IS_LAST or everywhere:
            mark()
            raise error
        return real(local_rank, **sizes)

    train_module.pick_device = pick_device


def give_nothing_finite() -> None:
    """A layer of the last rank gives NaN for its second micro-batch of step FAULTY_STEP, as often as it is computed."""
    real, seen = PlainEngine.forward_backward, list[HostBatch]()

    def forward_backward(engine: PlainEngine, batch: HostBatch) -> LossReport:
        if not any(batch is one for one in seen):
            seen.append(batch)
        if not (IS_LAST and batch is seen[-1] and len(seen) == FAULTY_STEP):
            return real(engine, batch)
        passes = iter(range(1000))

        def poison(_layer: torch.nn.Module, _arguments: object, output: tuple[torch.Tensor, ...]) -> object:
            return (output[0] * float("nan"), *output[1:]) if next(passes) == 1 else output

        mark()
        handle = engine._model.layers["1"].register_forward_hook(poison, prepend=True)
        try:
            return real(engine, batch)
        finally:
            handle.remove()

    PlainEngine.forward_backward = forward_backward


FAULTS: Mapping[str, Callable[[], None]] = {
    "bug": lambda: instead_of_a_step(raise_bug),
    "killed": lambda: instead_of_a_step(kill_in_collective),
    "memory": lambda: instead_of_a_step(run_out_of_memory),
    "beside_sleepers": fail_beside_sleepers,
    "not_finite": give_nothing_finite,
    "before_joining": lambda: before_joining(RuntimeError("a planted bug"), everywhere=False),
    "same_input_error": lambda: before_joining(InputError("a planted fault of the input"), everywhere=True),
}

if __name__ == "__main__":
    Path(f"rank-{WORLD.rank}.pid").write_text(str(os.getpid()))
    FAULTS[sys.argv.pop(1)]()
    main()
