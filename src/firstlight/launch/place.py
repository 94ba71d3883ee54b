"""Which of the machines that were given the same words this one is, and which interface leads to the others."""

import socket
import time
from collections.abc import Sequence
from dataclasses import replace

from firstlight.base.errors import InputError
from firstlight.base.started_by import Start
from firstlight.base.world import World, names_interface, set_variables
from firstlight.launch.interface import interface_of
from firstlight.launch.node import Node, local_address

_POLL_SECONDS = 0.5


def node_of_hosts(hosts: Sequence[str], *, num_ranks: int, port: int, join_seconds: int) -> Node:
    """This machine among `hosts`, addresses or names in the order of the nodes: the one of which it has the address.

    Raises InputError when it has none of them, or several.
    """
    addresses = {host: _address(host) for host in hosts}
    own = [number for number, host in enumerate(hosts) if interface_of(addresses[host]) is not None]
    if len(own) != 1:
        found = ", ".join(f"{host} ({addresses[host]})" for host in hosts)
        raise InputError(
            f"this machine has the addresses of {len(own)} of --hosts {found}; it must have that of one, or give each "
            "node its number with --nodes, --node-rank and --master-addr"
        )
    return Node(
        rank=own[0],
        count=len(hosts),
        num_ranks=num_ranks,
        address=addresses[hosts[0]],
        port=port,
        join_seconds=join_seconds,
    )


def node_of_start(start: Start, *, num_ranks: int, join_seconds: int) -> Node:
    """The node that Slurm or an MPI has started one launcher on. Raises InputError when there are several on one."""
    if start.local_size != 1:
        raise InputError(
            f"{start.local_size} launchers were started on this node; start one on each, as with srun "
            "--ntasks-per-node=1, or the ranks themselves with firstlight train"
        )
    return Node(
        rank=start.rank,
        count=start.size,
        num_ranks=num_ranks,
        address=start.address,
        port=start.port,
        join_seconds=join_seconds,
    )


def known(node: Node) -> Node:
    """`node` with the master's address as a number, once its name is known: a cluster may take a while to publish it.

    Raises InputError when it is not within `join_seconds`, or when it is the name that a machine has for itself.
    """
    end = time.monotonic() + node.join_seconds
    while True:
        try:
            address = _address(node.address)
            break
        except InputError:
            if time.monotonic() > end:
                raise
            time.sleep(_POLL_SECONDS)
    if address.startswith("127.") and node.count > 1 and node.address not in (address, "localhost"):
        raise InputError(
            f"MASTER_ADDR = {node.address} is {address} on this machine, where no other one reaches it; give an "
            "address of its network"
        )
    return replace(node, address=address)


def use_route(world: World) -> None:
    """Have gloo listen on the interface that leads to the first rank, when Slurm or an MPI has started this one.

    One that the user has named stays. Raises InputError when there is no route, or no interface that is known by it.
    """
    store = world.master_store
    if store is None or not world.serves_store or names_interface():
        return
    place = Node(
        rank=world.rank,
        count=world.size,
        num_ranks=1,
        address=store.address,
        port=store.port,
        join_seconds=store.join_seconds,
    )
    address = local_address(place)
    interface = interface_of(address)
    if interface is None:
        raise InputError(f"no network interface has the address {address}; name one in GLOO_SOCKET_IFNAME")
    set_variables({"GLOO_SOCKET_IFNAME": interface})


def _address(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise InputError(f"{host} is no address, and no name of one: {error}") from None
