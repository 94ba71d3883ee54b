"""Where the time of Firstlight's step goes, by operator: its own parts, assembled in this process, under a profile."""

import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import ForeignLoad
from benchmarks.train_cases import Case
from benchmarks.train_firstlight import DataSet
from firstlight.base.allocator import keep_freed_memory
from firstlight.base.peers import Alone
from firstlight.base.world import World
from firstlight.checkpoint.lock import FolderLock
from firstlight.config.load import load
from firstlight.observe.events import EventLog
from firstlight.train.assemble import assemble, open_inputs
from firstlight.train.loop import Parts, train_step
from firstlight.train.place import Place
from firstlight.train.run_folder import RunFolder
from firstlight.train.state import TrainState

ROWS = 30
_WARM_UP = 2


def started(case: Case, folder: Path, steps: int) -> tuple[Parts, TrainState]:
    """The run, before its first step."""
    output = folder / "run-profile"
    shutil.rmtree(output, ignore_errors=True)
    config = load(DataSet(folder=folder / "data").write_config(case, output, steps + _WARM_UP)).config
    run_folder = RunFolder(path=output)
    run_folder.path.mkdir()
    run_folder.claim(config)
    place = Place(
        world=World(),
        peers=Alone(),
        device=torch.device("cpu"),
        folder=run_folder,
        lock=FolderLock(output),
        events=EventLog(None),
    )
    return assemble(config, open_inputs(config), place)


def show_profile(case: Case, folder: Path, *, steps: int, threads: int) -> None:
    """Print the step's time without the profiler, what others took of the machine meanwhile, and with it the operators
    that took most.

    The allocator is set as `firstlight train` sets it; threads are not pinned.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    DataSet(folder=folder / "data").prepare()
    parts, state = started(case, folder, steps)
    for _ in range(_WARM_UP):
        train_step(parts, state)
    seconds = []
    with ForeignLoad(os.getpid()) as load:
        begun = time.time()
        for _ in range(steps - 1):
            begin = time.perf_counter()
            train_step(parts, state)
            seconds.append(time.perf_counter() - begin)
        ended = time.time()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as watched:
        train_step(parts, state)
    state.data.close()
    rate = case.tokens_per_step / statistics.median(seconds)
    print(
        f"{case.name}: {rate:.0f} tokens/s, {rate * case.flops_per_token / 1e9:.1f} GFLOP/s, not profiled; "
        f"others took {load.share(begun, ended):.1%}"
    )
    for title, groups in (
        ("operators", watched.key_averages()),
        ("operators by the shapes of their inputs", watched.key_averages(group_by_input_shape=True)),
    ):
        _show_operators(title, list(groups))


def _show_operators(title: str, groups: list[Any]) -> None:
    whole = sum(one.self_cpu_time_total for one in groups)
    print(f"\n{title}: {whole / 1e3:.0f} ms of this process's threads that call torch, under the profiler")
    print(f"{'ms':>8} {'share':>6} {'calls':>6} {'GFLOP/s':>8}  operator")
    for one in sorted(groups, key=lambda one: -one.self_cpu_time_total)[:ROWS]:
        taken = one.self_cpu_time_total
        speed = f"{one.flops / taken / 1e3:8.1f}" if one.flops and taken else " " * 8
        shapes = " ".join(str(shape).replace(" ", "") for shape in one.input_shapes if shape)
        print(f"{taken / 1e3:8.1f} {taken / whole:6.1%} {one.count:6d} {speed}  {one.key} {shapes}"[:150].rstrip())
