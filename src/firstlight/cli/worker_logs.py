"""Log files of the names and in the places that MindFormers' launcher gives them."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from firstlight.base import log
from firstlight.base.errors import InputError
from firstlight.base.world import World

SCHEDULER = "scheduler.log"
RANK_LOGS = Path("output", "log")
"""Below the folder that the command is given in, wherever the run's own is."""
_OUTPUT, _ERRORS = 1, 2
"""The descriptors: libraries in C++ write to them as well."""


def worker_log(folder: Path, local_rank: int) -> Path:
    """The log of one of this node's workers."""
    return folder / f"worker_{local_rank}.log"


def make_folder(folder: Path) -> None:
    """Raises InputError when it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder of logs {folder} cannot be made: {error}") from None


def log_to_scheduler(folder: Path) -> None:
    """What the launcher says goes to its log as well."""
    make_folder(folder)
    handler = logging.FileHandler(folder / SCHEDULER, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.get_logger().addHandler(handler)


def log_to_worker(folder: Path, world: World) -> None:
    """All that this rank says goes to its log. What the first rank prints, the steps, goes to the node's last worker's
    as well: with a pipeline that is where MindFormers has the losses, and where people look for them.
    """
    make_folder(folder)
    with worker_log(folder, world.local_rank).open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), _OUTPUT)
        os.dup2(file.fileno(), _ERRORS)
    last = world.local_size - 1
    if world.rank == 0:
        twins = [_rank_folder(world) / "info.log", *([worker_log(folder, last)] if last else [])]
        # Open for the life of the process, as standard output is.
        sys.stdout = _Several([sys.stdout, *(path.open("a", encoding="utf-8", buffering=1) for path in twins)])


def log_to_rank(world: World) -> None:
    """The logger's lines go to MindFormers' other tree of logs as well, in the form that they have there."""
    for name, level in (("info.log", logging.INFO), ("error.log", logging.ERROR)):
        handler = logging.FileHandler(_rank_folder(world) / name, encoding="utf-8")
        handler.setLevel(level)
        handler.setFormatter(
            logging.Formatter("[%(levelname)s] %(asctime)s [%(pathname)s:%(lineno)d] %(funcName)s: %(message)s")
        )
        log.get_logger().addHandler(handler)


def _rank_folder(world: World) -> Path:
    folder = RANK_LOGS / f"rank_{world.rank}"
    make_folder(folder)
    return folder


class _Several:
    """Writes to several streams."""

    def __init__(self, streams: Sequence[TextIO]) -> None:
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()

    def isatty(self) -> bool:
        return False
