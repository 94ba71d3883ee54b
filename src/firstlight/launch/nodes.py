"""The ranks of this node among those of several nodes, which start, end and start again together."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException

from firstlight.base.errors import InputError
from firstlight.base.heartbeat import read_beats
from firstlight.base.log import get_logger
from firstlight.base.world import NodeOfRanks, names_interface, nodes_environment, set_variables
from firstlight.launch.agent import Reason
from firstlight.launch.interface import interface_of
from firstlight.launch.member import Group, Member, Report
from firstlight.launch.node import Node, local_address
from firstlight.launch.ranks import ENTRY, LOOPBACK, Ranks, Round, run_round, silence_torchelastic
from firstlight.launch.supervisor import WATCH_SECONDS, Supervisor
from firstlight.launch.words import Order


@dataclass(kw_only=True)
class _Watch:
    """Reads the signs of life of this node's ranks, and asks whether they are to end."""

    member: Member
    store_folder: Path
    looked_at: float = 0.0

    def __call__(self) -> Reason | None:
        now = time.monotonic()
        if now - self.looked_at < WATCH_SECONDS:
            return None
        self.looked_at = now
        return self.member.watch(read_beats(self.store_folder))


def launch_nodes(
    arguments: Sequence[str], *, node: Node, supervisor: Supervisor, group: Group, entry: Sequence[str] = ENTRY
) -> int:
    """Run `firstlight ARGUMENTS` in the ranks of this node whenever all nodes are there, or as many of them as are
    enough, until the run has ended.

    The exit code of what ended it, or 0. Raises InputError when this node cannot listen where it must.
    """
    silence_torchelastic()
    interface = _interface(node)
    with Member(node, supervisor, group) as member, tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
        try:
            while (order := member.next_order()).kind == "run":
                get_logger().info(_who_is_there(node, order))
                ranks = _ranks((*entry, *arguments), node, order, interface)
                store_folder = Path(folder) / f"round-{order.round}"
                done = run_round(store_folder, ranks, _Watch(member=member, store_folder=store_folder))
                place = member.place_of_traces
                is_kept = bool(place) and supervisor.keep_traces(store_folder, place)
                member.report(_report(done, traces=place if is_kept else ""))
        except SignalException as request:  # while it waits for the others
            return 128 + int(request.sigval.value)
        return _stop(member, order, supervisor)


def _stop(member: Member, order: Order, supervisor: Supervisor) -> int:
    if order.message:
        get_logger().error(order.message)
        supervisor.save()
    if member.leads:
        supervisor.ended()
    member.leave()
    return order.exit_code


def _who_is_there(node: Node, order: Order) -> str:
    if len(order.party) == node.count:
        return f"all {node.count} nodes are there; this is node {node.rank}"
    nodes = ", ".join(map(str, order.party))
    ranks = len(order.party) * node.num_ranks
    return f"{len(order.party)} of {node.count} nodes go on with {ranks} rank(s): {nodes}; this is node {node.rank}"


def _ranks(command: tuple[str, ...], node: Node, order: Order, interface: str) -> Ranks:
    """Those of this round; they find out from their environment where they stand."""
    place = NodeOfRanks(
        index=order.party.index(node.rank),
        count=len(order.party),
        whole=node.count,
        node=node.rank,
        job=order.job,
        round=order.round,
        join_seconds=node.join_seconds,
    )
    set_variables(nodes_environment(place, store=order.store))
    return Ranks(command=command, count=node.num_ranks, first=place.index * node.num_ranks, interface=interface)


def _report(done: Round, *, traces: str) -> Report:
    cause = None if done.ended is None else done.ended.cause
    return Report(exit_code=done.exit_code, cause=cause, is_asked=done.is_asked, traces=traces)


def _interface(node: Node) -> str:
    """The one through which the other nodes are reached."""
    address = local_address(node)
    interface = interface_of(address)
    if interface is None and not names_interface():
        raise InputError(f"no network interface has the address {address}; name one in GLOO_SOCKET_IFNAME")
    return interface or LOOPBACK  # the user's own goes before it
