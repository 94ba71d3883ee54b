"""Several processes on this machine, on torchelastic, with nothing that listens on a network.

Agent and ranks meet in a private folder (torch's file store) instead of a TCP store, which would listen on every
interface and unpickle what it is sent; gloo is bound to the loopback interface.
"""

import logging
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch.distributed.elastic.rendezvous.registry as rendezvous
from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters

from firstlight.base.errors import FirstlightError
from firstlight.base.failure import read_failures
from firstlight.base.log import get_logger
from firstlight.base.world import available_cores, read_exit_code, set_variables, worker_environment
from firstlight.launch.agent import Agent
from firstlight.launch.cause import first_cause

_SHUTDOWN_SECONDS = 600
"""A rank that was asked to stop finishes its step and saves; only then is it killed."""


_ENTRY = ("-m", "firstlight")


def launch_local(arguments: Sequence[str], *, num_processes: int, entry: Sequence[str] = _ENTRY) -> int:
    """Run `firstlight ARGUMENTS` in `num_processes` processes; the exit code of what failed first, or 0.

    When a rank fails all others end within seconds, and its failure is said here, once. A signal to this process
    reaches the ranks, which save and end; the exit code is then theirs. `entry` is what Python is given before the
    arguments.
    """
    _silence_torchelastic()
    with tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
        store_folder = Path(folder)
        threads = max(1, available_cores() // num_processes)
        set_variables(worker_environment(store_folder=store_folder, threads=threads))
        spec = _specification(store_folder, num_processes, (*entry, *arguments))
        agent = Agent.watching(spec, store_folder, shutdown_seconds=_SHUTDOWN_SECONDS)
        try:
            result = agent.run()
        except SignalException as request:
            asked_code = read_exit_code(store_folder, default=128 + request.sigval.value)
            return _outcome(agent, default=asked_code)
        return _outcome(agent, default=_exit_code(agent, result)) if result.is_failed() else 0


def _outcome(agent: Agent, *, default: int) -> int:
    """Say what failed first, and return its exit code; `default` when no rank has left anything to say."""
    cause = first_cause(read_failures(agent.store_folder), agent.ended_by_themselves)
    if cause is None:
        return default
    get_logger().error(cause.message)
    return cause.exit_code


def _exit_code(agent: Agent, result: RunResult) -> int:
    """Of ranks that have said themselves why they end."""
    codes = (*agent.ended_by_themselves.values(), *(failure.exitcode for failure in result.failures.values()))
    return next((code for code in codes if code > 0), FirstlightError.exit_code)


def _silence_torchelastic() -> None:
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
