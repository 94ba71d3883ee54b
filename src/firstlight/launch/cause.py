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


def first_cause(failures: Sequence[Failure], exit_codes: Mapping[int, int]) -> Cause | None:
    """The cause among the records, in order of time, and the exit codes of ranks that failed by themselves.

    A record that says more than "another rank failed" comes first; then a rank that a signal ended before it could
    leave one; then what is left. None when no rank has anything to say: it has said it itself.
    """
    own = [failure for failure in failures if not failure.is_consequence]
    if own:
        return Cause(message=own[0].message(), exit_code=own[0].exit_code)
    recorded = {failure.rank for failure in failures}
    killed = {rank: -code for rank, code in exit_codes.items() if code < 0 and rank not in recorded}
    if killed:
        rank, number = next(iter(killed.items()))
        return Cause(message=_killed(rank, number), exit_code=FirstlightError.exit_code)
    return Cause(message=failures[0].message(), exit_code=failures[0].exit_code) if failures else None


def _killed(rank: int, number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = "; the kernel does so when memory is short (see dmesg)" if number == signal.SIGKILL else ""
    return f"error: rank {rank} on host {socket.gethostname()} was ended by {name}{hint}"
