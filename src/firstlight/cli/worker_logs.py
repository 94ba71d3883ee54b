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

RANK_LOGS = Path("output", "log")
"""Below the folder that the command is given in, wherever the run's own is."""
_WORKER_LINE = "%(asctime)s - mindformers[%(pathname)s:%(lineno)d] - %(levelname)s - %(message)s"
_RANK_LINE = "[%(levelname)s] %(asctime)s [%(pathname)s:%(lineno)d] %(funcName)s: %(message)s"
"""The forms of MindFormers' logs of workers, and of ranks."""
_OUTPUT, _ERRORS = 1, 2
"""The descriptors: libraries in C++ write to them as well."""


def worker_log(folder: Path, rank: int) -> Path:
    """The log of a worker, by its rank among those of all nodes."""
    return folder / f"worker_{rank}.log"


def launcher_log(folder: Path, node_rank: int) -> Path:
    """The log of a node's launcher. The first has MindFormers' name; the others would not be told apart by it, as the
    folder may be one that they share."""
    return folder / ("scheduler.log" if node_rank == 0 else f"launcher_{node_rank}.log")


def make_folder(folder: Path) -> None:
    """Raises InputError when it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder of logs {folder} cannot be made: {error}") from None


def log_to_launcher(path: Path) -> None:
    """What the launcher says goes to its log as well."""
    make_folder(path.parent)
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter(_WORKER_LINE))
    log.get_logger().addHandler(handler)


def log_to_worker(folder: Path, world: World) -> None:
    """All that this rank says goes to its log. What the first rank prints, the steps, goes to that of its node's last
    worker as well: with a pipeline that is where MindFormers has the losses, and where people look for them.
    """
    make_folder(folder)
    with worker_log(folder, world.rank).open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), _OUTPUT)
        os.dup2(file.fileno(), _ERRORS)
    last = world.local_size - 1
    if world.rank == 0:
        twins = [worker_log(folder, last)] if last else []
        # Open for the life of the process, as standard output is.
        workers = [sys.stdout, *(path.open("a", encoding="utf-8", buffering=1) for path in twins)]
        info = (_rank_folder(world) / "info.log").open("a", encoding="utf-8", buffering=1)
        sys.stdout = _Several([*((stream, _WORKER_LINE) for stream in workers), (info, _RANK_LINE)])


def log_as_mindformers() -> None:
    """The logger's lines have the form that they have in MindFormers' logs of workers."""
    for handler in log.get_logger().handlers:
        handler.setFormatter(logging.Formatter(_WORKER_LINE))


def log_to_rank(world: World) -> None:
    """The logger's lines go to MindFormers' other tree of logs as well, in the form that they have there."""
    for name, level in (("info.log", logging.INFO), ("error.log", logging.ERROR)):
        handler = logging.FileHandler(_rank_folder(world) / name, encoding="utf-8")
        handler.setLevel(level)
        handler.setFormatter(logging.Formatter(_RANK_LINE))
        log.get_logger().addHandler(handler)


def _rank_folder(world: World) -> Path:
    folder = RANK_LOGS / f"rank_{world.rank}"
    make_folder(folder)
    return folder


class _Several:
    """Writes to several streams, each with a form for its lines."""

    def __init__(self, streams: Sequence[tuple[TextIO, str]]) -> None:
        self._streams = [(stream, logging.Formatter(form)) for stream, form in streams]
        self._line = ""

    def write(self, text: str) -> int:
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            record = logging.LogRecord("firstlight", logging.INFO, __file__, 0, line, None, None, "write")
            for stream, formatter in self._streams:
                stream.write(formatter.format(record) + "\n")
        return len(text)

    def flush(self) -> None:
        for stream, _ in self._streams:
            stream.flush()

    def isatty(self) -> bool:
        return False
