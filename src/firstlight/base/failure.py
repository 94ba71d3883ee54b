"""What a rank leaves behind when it fails: a record for the launcher, and its whole trace in a log of its own."""

import json
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.base.peers import PeerFailed
from firstlight.base.world import World

_RECORD = "failure-{}.json"
_SHOWN_FRAMES = 3
_COLLECTIVE_ERRORS = frozenset({"DistError", "DistBackendError", "DistNetworkError", "DistStoreError"})
_COLLECTIVE_SOURCES = ("/gloo/", "NCCL error", "HCCL error")
"""What backends that raise a plain RuntimeError name in its text."""


class Reported(FirstlightError):
    """This rank failed, and its record is written; the process only ends, with `exit_code`."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("the failure is recorded")
        self.exit_code = exit_code


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How a rank failed. `time_seconds` is Unix time."""

    rank: int
    host: str
    time_seconds: float
    exit_code: int
    what: str
    """A FirstlightError's message; of any other exception its class and message."""
    frames: str = ""
    """The last frames of a bug's trace; the whole one where it is in no log."""
    log: str = ""
    """The file with the whole trace."""
    is_consequence: bool = False
    """Whether it says no more than that another rank failed."""

    @classmethod
    def of(cls, error: Exception, world: World, logs: Path | None) -> "Failure":
        """Of `error` in this process; the trace of a bug goes to `logs`/rank-N.log."""
        is_bug = not isinstance(error, FirstlightError)
        log = _write_log(error, world, logs) if is_bug and logs is not None else ""
        return cls(
            rank=world.rank,
            host=socket.gethostname(),
            time_seconds=time.time(),
            exit_code=error.exit_code if isinstance(error, FirstlightError) else FirstlightError.exit_code,
            what=f"{type(error).__name__}: {error}" if is_bug else str(error),
            frames=_frames(error, _SHOWN_FRAMES if log else None) if is_bug else "",
            log=log,
            is_consequence=_is_consequence(error),
        )

    def message(self) -> str:
        """For the user, beginning with `error: `."""
        if not self.frames:
            return f"error: {self.what}" + (f" (rank {self.rank}, host {self.host})" if self.rank else "")
        where = f"\nthe whole trace: {self.log}" if self.log else ""
        return f"error: rank {self.rank} on host {self.host} failed: {self.what}\n{self.frames}{where}"


@contextmanager
def failures_reported(world: World, logs: Path | None) -> Iterator[None]:
    """Turn an exception that leaves the block into a record, and raise Reported. A single process keeps its exception,
    unless it is what is left of several nodes.

    To be entered inside of what an exception tears down: the others must not notice before the record is there.
    Without a launcher of ours to read it, the rank says what failed, and of a mere consequence one line.
    """
    try:
        yield
    except Reported:
        raise
    except Exception as error:
        if world.size == 1 and world.node is None:
            raise
        failure = Failure.of(error, world, logs)
        if world.store_folder is not None and world.store_folder.is_dir():
            _write_record(failure, world.store_folder)
        elif not isinstance(error, PeerFailed):
            _say(failure)
        raise Reported(failure.exit_code) from error


def read_failures(store_folder: Path) -> list[Failure]:
    """The records of all ranks that failed so far, the first failure first."""
    records = [json.loads(path.read_text()) for path in store_folder.glob(_RECORD.format("*"))]
    return sorted((Failure(**record) for record in records), key=lambda failure: failure.time_seconds)


def _say(failure: Failure) -> None:
    text = f"rank {failure.rank} ends because another one has" if failure.is_consequence else failure.message()
    get_logger().error(text)


def _write_record(failure: Failure, folder: Path) -> None:
    path = folder / _RECORD.format(failure.rank)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(asdict(failure)))
    unfinished.rename(path)


def _write_log(error: Exception, world: World, logs: Path) -> str:
    """The path of the log, or nothing where it cannot be written: the record then has the whole trace."""
    path = logs / f"rank-{world.rank}.log"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S %z')} rank {world.rank} of {world.size} failed\n")
            file.writelines(traceback.format_exception(error))
            file.write("\n")
    except OSError:
        return ""
    return str(path)


def _frames(error: Exception, count: int | None) -> str:
    if count is None:
        return "".join(traceback.format_exception(error)).rstrip("\n")
    return "".join(traceback.format_tb(error.__traceback__)[-count:]).rstrip("\n")


def _is_consequence(error: Exception) -> bool:
    """Whether the other end of a collective is gone, in as far as an exception tells."""
    if isinstance(error, PeerFailed):
        return True
    is_collective = any(kind.__name__ in _COLLECTIVE_ERRORS for kind in type(error).__mro__)
    return is_collective or any(source in str(error) for source in _COLLECTIVE_SOURCES)
