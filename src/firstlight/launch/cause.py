"""Which of several failures came first, and how it is told."""

import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from firstlight.base.errors import FirstlightError
from firstlight.base.failure import Failure


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What is said once, and the exit code of the run."""

    message: str
    exit_code: int
    kind: str = ""
    """A signal's name, an exception's class; what makes two causes alike."""
    rank: int = 0
    is_consequence: bool = False
    """Whether it says no more than that another rank, perhaps of another node, failed."""


def first_cause(failures: Sequence[Failure], exit_codes: Mapping[int, int]) -> Cause | None:
    """The cause among the records, in order of time, and the exit codes of ranks that failed by themselves.

    A record that says more than "another rank failed" comes first; then a rank that a signal ended before it could
    leave one; then what is left. None when no rank has anything to say: it has said it itself.
    """
    own = [failure for failure in failures if not failure.is_consequence]
    if own:
        return _recorded(own[0])
    recorded = {failure.rank for failure in failures}
    killed = {rank: -code for rank, code in exit_codes.items() if code < 0 and rank not in recorded}
    if killed:
        rank, number = next(iter(killed.items()))
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        message, code = _killed(rank, number, name), FirstlightError.exit_code
        return Cause(message=message, exit_code=code, kind=name, rank=rank)
    return _recorded(failures[0]) if failures else None


def _recorded(failure: Failure) -> Cause:
    kind = failure.what.partition(":")[0] if failure.frames else "error"
    return Cause(
        message=failure.message(),
        exit_code=failure.exit_code,
        kind=kind,
        rank=failure.rank,
        is_consequence=failure.is_consequence,
    )


def _killed(rank: int, number: int, name: str) -> str:
    hint = "; the kernel does so when memory is short (see dmesg)" if number == signal.SIGKILL else ""
    return f"error: rank {rank} on host {socket.gethostname()} was ended by {name}{hint}"
