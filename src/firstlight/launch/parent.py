"""Ties a rank to the launcher that started it: no rank trains on, unwatched, when its launcher is killed."""

import ctypes
import faulthandler
import os
import signal
import sys
from pathlib import Path

from firstlight.base.errors import FirstlightError
from firstlight.base.traces import STACKS
from firstlight.base.world import World

TRACE_SIGNAL = signal.SIGUSR2
"""Has a rank write the stacks of all its threads, even while one of them holds the interpreter."""

_PR_SET_PDEATHSIG = 1


def die_with(launcher_pid: int) -> None:
    """Have the kernel kill this process when its parent, the launcher, ends. Linux only; elsewhere nothing happens.

    Ranks are in sessions of their own, so a signal to the launcher's process group does not reach them; and a rank
    that went on would write into the folder of the run that is started again. Raises FirstlightError when the
    launcher is gone already.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise FirstlightError(f"this rank cannot be tied to its launcher: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != launcher_pid:
        raise FirstlightError(f"the launcher (pid {launcher_pid}) ended before this rank began")


def write_stacks_when_asked(world: World) -> None:
    """At TRACE_SIGNAL, write the stacks of all threads to `stacks-RANK.txt` in the launcher's folder."""
    if world.store_folder is not None and world.store_folder.is_dir():
        # Open for the life of the process: the handler writes to its descriptor.
        file = (world.store_folder / STACKS.format(world.rank)).open("w")
        faulthandler.register(TRACE_SIGNAL, file=file, all_threads=True)


def read_stacks(store_folder: Path, rank: int) -> str:
    """What a rank has written; nothing where it could not."""
    path = store_folder / STACKS.format(rank)
    return path.read_text(errors="replace") if path.exists() else ""
