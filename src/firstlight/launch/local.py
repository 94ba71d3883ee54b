"""Several processes on this machine, on torchelastic, with nothing that listens on a network.

Agent and ranks meet in a private folder (torch's file store) instead of a TCP store, which would listen on every
interface and unpickle what it is sent; gloo is bound to the loopback interface.
"""

import logging
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed.elastic.rendezvous.registry as rendezvous
from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters

from firstlight.base.errors import FirstlightError, InputError
from firstlight.base.failure import read_failures
from firstlight.base.log import get_logger
from firstlight.base.world import (
    MasterStore,
    available_cores,
    names_interface,
    nodes_environment,
    read_exit_code,
    set_variables,
    worker_environment,
)
from firstlight.launch.agent import Agent
from firstlight.launch.cause import Cause, first_cause
from firstlight.launch.interface import interface_of
from firstlight.launch.node import Node, local_address
from firstlight.launch.parent import read_stacks
from firstlight.launch.supervisor import Ended, Supervisor

_SHUTDOWN_SECONDS = 600
"""A rank that was asked to stop finishes its step and saves; only then is it killed."""


_SHOWN_CALLS = 4

_ENTRY = ("-m", "firstlight")

_LOOPBACK = "lo"


@dataclass(frozen=True, kw_only=True)
class _Ranks:
    """What the ranks of this node are started as, in each round."""

    command: tuple[str, ...]
    count: int
    first: int
    """The rank of the first of them among all nodes."""
    interface: str


@dataclass(frozen=True, kw_only=True)
class _Round:
    """How one start of the ranks ended: an exit code, and a failure if there was one."""

    exit_code: int
    ended: Ended | None = None
    is_asked: bool = False
    """Whether this process was asked to stop, so that nothing starts again."""


def launch_local(
    arguments: Sequence[str],
    *,
    num_processes: int,
    supervisor: Supervisor | None = None,
    entry: Sequence[str] = _ENTRY,
    node: Node | None = None,
) -> int:
    """Run `firstlight ARGUMENTS` in `num_processes` processes; the exit code of what failed first, or 0.

    When a rank fails all others end within seconds, and its failure is said here, once; a `supervisor` then decides
    whether they start again. A signal to this process reaches the ranks, which save and end; the exit code is then
    theirs. `entry` is what Python is given before the arguments. `node` says which of several nodes this is; it must
    have met the others. Ranks of several nodes start again together or not at all, so not with a `supervisor`.
    """
    _silence_torchelastic()
    ranks = _Ranks(
        command=(*entry, *arguments),
        count=num_processes,
        first=0 if node is None else node.rank * num_processes,
        interface=_LOOPBACK if node is None else _join_nodes(node),
    )
    with tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
        for number in range(sys.maxsize):
            # A folder of their own for each round: an old one holds the addresses of ranks that are gone.
            store_folder = Path(folder) / f"round-{number}"
            store_folder.mkdir()
            done = _run(store_folder, ranks, supervisor)
            if not _starts_again(done, supervisor):
                break
    if supervisor is not None:
        supervisor.ended()
    return done.exit_code


def _starts_again(done: _Round, supervisor: Supervisor | None) -> bool:
    if done.ended is None:
        return False
    if supervisor is None or done.is_asked:
        get_logger().error(done.ended.cause.message)
        return False
    return supervisor.starts_again(done.ended)


def _join_nodes(node: Node) -> str:
    """Tell the ranks of the other nodes, and return the interface through which they are reached."""
    place = MasterStore(address=node.address, port=node.port, join_seconds=node.join_seconds)
    set_variables(nodes_environment(node_rank=node.rank, num_nodes=node.count, master_store=place))
    address = local_address(node)
    interface = interface_of(address)
    if interface is None and not names_interface():
        raise InputError(f"no network interface has the address {address}; name one in GLOO_SOCKET_IFNAME")
    return interface or _LOOPBACK  # the user's own goes before it


def _run(store_folder: Path, ranks: _Ranks, supervisor: Supervisor | None) -> _Round:
    threads = max(1, available_cores() // ranks.count)
    set_variables(worker_environment(store_folder=store_folder, threads=threads, interface=ranks.interface))
    spec = _specification(store_folder, ranks.count, ranks.command)
    agent = Agent.watching(spec, store_folder, shutdown_seconds=_SHUTDOWN_SECONDS)
    if supervisor is not None:
        agent.watch = lambda: supervisor.watch(store_folder)
    try:
        result = agent.run()
    except SignalException as request:
        asked_code = read_exit_code(store_folder, default=128 + request.sigval.value)
        return _outcome(agent, ranks, default=asked_code, is_asked=True)
    return _outcome(agent, ranks, default=_exit_code(agent, result)) if result.is_failed() else _Round(exit_code=0)


def _outcome(agent: Agent, ranks: _Ranks, *, default: int, is_asked: bool = False) -> _Round:
    """What failed first, with its exit code; `default` when no rank has left anything to say."""
    ended = {ranks.first + local_rank: code for local_rank, code in agent.ended_by_themselves.items()}
    cause = first_cause(read_failures(agent.store_folder), ended)
    if agent.stuck is not None:
        stuck = agent.stuck
        code = FirstlightError.exit_code
        message = f"error: {stuck.what}{_where(agent.store_folder, stuck.rank)}"
        cause = Cause(message=message, exit_code=code, kind=stuck.kind, rank=stuck.rank)
    if cause is None:
        return _Round(exit_code=default, is_asked=is_asked)
    noticed_at = time.monotonic() if agent.noticed_at is None else agent.noticed_at
    failed = Ended(cause=cause, noticed_at=noticed_at, store_folder=agent.store_folder)
    return _Round(exit_code=cause.exit_code, ended=failed, is_asked=is_asked)


def _where(store_folder: Path, rank: int) -> str:
    """The innermost calls of a stuck rank's main thread; nothing of one that could not write them."""
    _, _, main_thread = read_stacks(store_folder, rank).rpartition("(most recent call first):\n")
    return "".join(f"\n{line}" for line in main_thread.splitlines()[:_SHOWN_CALLS])


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
