"""Ties a rank to the launcher that started it: no rank trains on, unwatched, when its launcher is killed."""

import ctypes
import os
import signal
import sys

from firstlight.base.errors import FirstlightError

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
