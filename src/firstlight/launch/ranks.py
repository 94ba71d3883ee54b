"""The ranks of one node in one round, on torchelastic: started, watched over, and how they ended."""

import logging
import re
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch.distributed.elastic.rendezvous.registry as rendezvous
from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters

from firstlight.base.errors import FirstlightError
from firstlight.base.failure import read_failures
from firstlight.base.world import available_cores, read_exit_code, set_variables, worker_environment
from firstlight.launch.agent import Agent, Reason
from firstlight.launch.cause import Cause, first_cause
from firstlight.launch.parent import read_stacks
from firstlight.launch.supervisor import Ended

ENTRY = ("-m", "firstlight")
LOOPBACK = "lo"

_SHUTDOWN_SECONDS = 600
"""A rank that was asked to stop finishes its step and saves; only then is it killed."""

_SHOWN_CALLS = 4
_CALL = re.compile(r'File "(?:.*/)?(?P<file>[^"]+)", line (?P<line>\d+) in (?P<call>.+)')
"""A line of faulthandler's."""

Watch = Callable[[], Reason | None]


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """What the ranks of this node are started as, in each round."""

    command: tuple[str, ...]
    count: int
    first: int = 0
    """The rank of the first of them among all nodes."""
    interface: str = LOOPBACK


@dataclass(frozen=True, kw_only=True)
class Round:
    """How one start of the ranks ended: an exit code, and a failure if there was one."""

    exit_code: int
    ended: Ended | None = None
    is_asked: bool = False
    """Whether this process was asked to stop, so that nothing starts again."""


def run_round(store_folder: Path, ranks: Ranks, watch: Watch) -> Round:
    """Start the ranks, and return when all have ended. `watch` is asked often whether they are to end."""
    store_folder.mkdir()
    threads = max(1, available_cores() // ranks.count)
    set_variables(worker_environment(store_folder=store_folder, threads=threads, interface=ranks.interface))
    spec = _specification(store_folder, ranks.count, ranks.command)
    agent = Agent.watching(spec, store_folder, shutdown_seconds=_SHUTDOWN_SECONDS, watch=watch)
    try:
        result = agent.run()
    except SignalException as request:
        asked_code = read_exit_code(store_folder, default=128 + request.sigval.value)
        return _outcome(agent, ranks, default=asked_code, is_asked=True)
    return _outcome(agent, ranks, default=_exit_code(agent, result)) if result.is_failed() else Round(exit_code=0)


def _outcome(agent: Agent, ranks: Ranks, *, default: int, is_asked: bool = False) -> Round:
    """What failed first, with its exit code; `default` when no rank has left anything to say."""
    ended = {ranks.first + local_rank: code for local_rank, code in agent.ended_by_themselves.items()}
    cause = first_cause(read_failures(agent.store_folder), ended)
    if agent.stuck is not None:
        stuck = agent.stuck
        code = FirstlightError.exit_code
        message = f"error: {stuck.what}{_where(agent.store_folder, stuck.rank)}"
        cause = Cause(message=message, exit_code=code, kind=stuck.kind, rank=stuck.rank)
    if cause is None:
        return Round(exit_code=default, is_asked=is_asked)
    noticed_at = time.monotonic() if agent.noticed_at is None else agent.noticed_at
    failed = Ended(cause=cause, noticed_at=noticed_at, store_folder=agent.store_folder)
    return Round(exit_code=cause.exit_code, ended=failed, is_asked=is_asked)


def _where(store_folder: Path, rank: int) -> str:
    """The innermost call of a stuck rank's main thread, and lines with some more; nothing of one that could not write
    them."""
    _, _, main_thread = read_stacks(store_folder, rank).rpartition("(most recent call first):\n")
    calls = main_thread.splitlines()[:_SHOWN_CALLS]
    innermost = _CALL.search(calls[0]) if calls else None
    named = "" if innermost is None else f"; it is in {innermost['call']} ({innermost['file']}:{innermost['line']})"
    return named + "".join(f"\n{line}" for line in calls)


def _exit_code(agent: Agent, result: RunResult) -> int:
    """Of ranks that have said themselves why they end."""
    codes = (*agent.ended_by_themselves.values(), *(failure.exitcode for failure in result.failures.values()))
    return next((code for code in codes if code > 0), FirstlightError.exit_code)


def silence_torchelastic() -> None:
    """Its loggers each have a level of their own; what they would say, the ranks and the exit code say better."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _specification(store_folder: Path, num_processes: int, arguments: tuple[str, ...]) -> WorkerSpec:
    meeting = RendezvousParameters(
        backend="c10d",
        endpoint=str(store_folder / "agents"),
        run_id=uuid.uuid4().hex,
        min_nodes=1,
        max_nodes=1,
        local_addr="127.0.0.1",
        store_type="file",
    )
    return WorkerSpec(
        role="rank",
        local_world_size=num_processes,
        entrypoint=sys.executable,
        args=arguments,
        rdzv_handler=rendezvous.get_rendezvous_handler(meeting),
        max_restarts=0,
        local_addr="127.0.0.1",
    )
