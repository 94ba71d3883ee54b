"""What a rank writes about itself when its launcher asks, because it or another one will not go on.

Each rank waits at a pipe of its own in the launcher's folder, and answers with a file beside it.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

LOGS = "logs"
"""The folder in a run's folder that keeps them."""

STACKS = "stacks-{}.txt"
COLLECTIVES = "collectives-{}.json"

_PIPE = "ask-{}"


def answer_when_asked(folder: Path, rank: int, collectives: Callable[[], bytes]) -> None:
    """Wait, in a thread of its own, to be asked; then write what `collectives` gives. Once in the life of a process."""
    pipe, answer = folder / _PIPE.format(rank), folder / COLLECTIVES.format(rank)
    if pipe.exists():
        return
    os.mkfifo(pipe, 0o600)
    # for writing too: opening it waits for nobody, and reading waits until something is written
    descriptor = os.open(pipe, os.O_RDWR)

    def wait() -> None:
        try:
            os.read(descriptor, 1)
            os.close(descriptor)
            unfinished = answer.with_suffix(".unfinished")
            unfinished.write_bytes(collectives())
            unfinished.rename(answer)
        except OSError:
            return  # the launcher and its folder are gone

    threading.Thread(target=wait, name="collectives", daemon=True).start()


def ask_all(folder: Path) -> None:
    """Ask every rank that waits; the answers come within moments, where the rank can still run a thread."""
    for pipe in folder.glob(_PIPE.format("*")):
        try:
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            continue  # nobody waits there any more
        os.write(descriptor, b"?")
        os.close(descriptor)


def keep_traces(folder: Path, kept: Path) -> bool:
    """Copy what ranks have written in `folder` to the new folder `kept`; whether it was done."""
    names = (STACKS.format("*"), COLLECTIVES.format("*"))
    written = [path for name in names for path in folder.glob(name) if path.stat().st_size]
    try:
        for path in written:
            kept.mkdir(parents=True, exist_ok=True)
            (kept / path.name).write_bytes(path.read_bytes())
    except OSError:
        return False
    return bool(written)
