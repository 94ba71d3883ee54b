"""One of several machines that a person or a script starts by hand, and the sockets that it listens on."""

import errno
import socket
from dataclasses import dataclass
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

from firstlight.base.errors import InputError
from firstlight.base.listening import listening

_STORE_SECONDS = 600

JOIN_SECONDS = 600
"""How long nodes wait for each other at the start, unless somebody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine among `count`, with `num_ranks` ranks each. The supervisor of node 0 listens at `address`:`port`."""

    rank: int
    count: int
    num_ranks: int
    address: str
    port: int
    join_seconds: int
    """How long the nodes wait for each other before the first step."""


def local_address(node: Node) -> str:
    """The address of this machine from which the master is reached. Raises InputError when there is no route."""
    try:
        family, _, _, _, address = socket.getaddrinfo(node.address, node.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise InputError(f"MASTER_ADDR = {node.address} cannot be reached from here: {error}") from None


def listening_at(node: Node, host: str) -> socket.socket:
    """The socket of this node's supervisor: on node 0 at the address that all know, else on a free port of `host`.

    Raises InputError when that address is another machine's, or the port is taken.
    """
    port = node.port if node.rank == 0 else 0
    try:
        return listening(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} of {host} cannot be opened; another run, or another node with NODE_RANK = "
                f"0, may have it ({error.strerror})"
            ) from None
        raise InputError(
            f"NODE_RANK = 0 must be the node whose address MASTER_ADDR = {node.address} is; this one has no such "
            f"address ({error.strerror or error})"
        ) from None


def open_store(host: str) -> tuple[TCPStore, str]:
    """A new store in which the ranks of one round meet, and its place. torch's own socket would listen on all
    interfaces; this one listens at `host`, on a free port, so that ranks of an earlier round do not come here."""
    socket_of_store = listening(host, 0)
    place = host_and_port(socket_of_store)
    port = socket_of_store.getsockname()[1]
    store = TCPStore(
        host,
        port,
        None,
        is_master=True,
        timeout=timedelta(seconds=_STORE_SECONDS),
        wait_for_workers=False,
        master_listen_fd=socket_of_store.detach(),
    )
    return store, place


def host_and_port(listening_socket: socket.socket) -> str:
    """Where it listens."""
    host, port = listening_socket.getsockname()[:2]
    return f"{host}:{port}"
