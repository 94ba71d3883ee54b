"""Starts a program that is measured, in an environment of its own, and keeps what it took."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ForeignLoad

ALLOCATOR = {
    "MALLOC_TOP_PAD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
}
"""glibc keeps what was freed instead of giving it back to the kernel and asking for it again, page by page."""
_TUNING = ("MALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_", "LD_PRELOAD", "PYTHON", "TORCH", "MASTER_", "RANK")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a program has printed and taken. `error` is the end of what it complained, None when it succeeded."""

    output: str
    error: str | None
    peak_bytes: int
    """Of the process, or of that of its children that took most."""
    load: ForeignLoad
    begun: float
    """Unix time of its start."""
    seconds: float
    """To its end."""


def environment(more: Mapping[str, str], folder: Path) -> dict[str, str]:
    """This process's, without what changes how fast a program is, and with `more`.

    Python's bytecode is kept in `folder`, so that it is there from the second start on, as it is for a user.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_TUNING)}
    return kept | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")} | dict(more)


def end_what_was_started() -> None:
    """From now on a request to end this process ends what `run` has started too, instead of leaving it behind."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def run(command: Sequence[str], *, more: Mapping[str, str], folder: Path) -> Ended:
    """Run a program to its end in `folder`."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as complaints:
        begun = time.time()
        process = subprocess.Popen(command, stdout=output, stderr=complaints, env=environment(more, folder), cwd=folder)
        try:
            with ForeignLoad(process.pid) as load:
                _, status, usage = os.wait4(process.pid, 0)
                seconds = time.time() - begun
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        complaints.seek(0)
        printed, complained = output.read(), complaints.read()
    error = None
    if process.returncode:
        error = f"exit code {process.returncode}: {' / '.join((complained or printed).strip().splitlines()[-4:])}"
    return Ended(
        output=printed, error=error, peak_bytes=usage.ru_maxrss * 1024, load=load, begun=begun, seconds=seconds
    )
