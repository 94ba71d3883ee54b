"""One of several machines that a person or a script starts by hand: where they meet, and that all of them are there.

The launcher of node 0 serves a TCP store at the master's address for as long as the run lasts. The launchers meet
there before any rank starts, so that what is wrong with the start is said once on each node; then the ranks do.
"""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed import DistError

from firstlight.base.errors import FirstlightError, InputError
from firstlight.base.listening import listening
from firstlight.base.log import get_logger

_POLL_SECONDS = 0.1
_FAREWELL_SECONDS = 30
"""What node 0 waits at the end for the others, whose ranks may still need its store."""
_LAST_WORDS_SECONDS = 2
"""What node 0 waits when the nodes do not meet, so that the others can read why."""
_FAULT = "fault"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine among `count`, each with as many ranks; node 0 serves the store at `address`:`port`."""

    rank: int
    count: int
    address: str
    port: int
    join_seconds: int
    """How long the nodes wait for each other."""


@contextmanager
def met(node: Node) -> Iterator[None]:
    """All nodes are there for the length of the block. Raises InputError or FirstlightError when they do not meet."""
    server = _serve(node) if node.rank == 0 else None
    store = PrefixStore("nodes", server or _connect(node))
    try:
        _claim(node, store)
        _wait_for_all(node, store)
    except FirstlightError:
        if server is not None:
            time.sleep(_LAST_WORDS_SECONDS)
        raise
    get_logger().info("all %d nodes are there; this is node %d", node.count, node.rank)
    try:
        yield
    finally:
        _part(node, store)


def local_address(node: Node) -> str:
    """The address of this machine from which the master is reached. Raises InputError when there is no route."""
    try:
        family, _, _, _, address = socket.getaddrinfo(node.address, node.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise InputError(f"MASTER_ADDR = {node.address} cannot be reached from here: {error}") from None


def _serve(node: Node) -> TCPStore:
    return TCPStore(
        node.address,
        node.port,
        None,
        is_master=True,
        timeout=_seconds(node.join_seconds),
        wait_for_workers=False,
        master_listen_fd=_listening(node).detach(),
    )


def _listening(node: Node) -> socket.socket:
    try:
        return listening(node.address, node.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {node.port} of {node.address} cannot be opened; another run, or another node with NODE_RANK = "
                f"0, may have it ({error.strerror})"
            ) from None
        raise InputError(
            f"NODE_RANK = 0 must be the node whose address MASTER_ADDR = {node.address} is; this one has no such "
            f"address ({error.strerror or error})"
        ) from None


def _connect(node: Node) -> TCPStore:
    """Ask again and again: the master may start later. Its own way of asking logs a trace each time."""
    end = time.monotonic() + node.join_seconds
    while True:
        try:
            socket.create_connection((node.address, node.port), timeout=max(1, node.join_seconds)).close()
            return TCPStore(node.address, node.port, None, is_master=False, timeout=_seconds(node.join_seconds))
        except (OSError, DistError) as error:
            if time.monotonic() > end:
                raise FirstlightError(
                    f"the master {node.address}:{node.port} did not answer within {node.join_seconds} s; is the node "
                    f"with NODE_RANK = 0 running there? ({_first_line(error)})"
                ) from None
            time.sleep(_POLL_SECONDS)


def _claim(node: Node, store: PrefixStore) -> None:
    """Every node has a rank of its own, and all of them count alike."""
    if store.add(f"node-{node.rank}", 1) > 1:
        fault = f"two nodes have NODE_RANK = {node.rank}; give each its own, from 0 to {node.count - 1}"
        store.set(_FAULT, fault)
        raise InputError(fault)
    counted = int(store.compare_set("count", "", str(node.count)))
    if counted != node.count:
        fault = f"the nodes do not agree on how many they are: {counted} and {node.count}"
        store.set(_FAULT, fault)
        raise InputError(fault)


def _wait_for_all(node: Node, store: PrefixStore) -> None:
    end = time.monotonic() + node.join_seconds
    while True:
        try:
            missing = [rank for rank in range(node.count) if not store.check([f"node-{rank}"])]
            if not missing:
                return
            if store.check([_FAULT]):
                raise InputError(store.get(_FAULT).decode())
        except DistError as error:
            raise FirstlightError(f"the master {node.address}:{node.port} has gone ({_first_line(error)})") from None
        if time.monotonic() > end:
            shown = ", ".join(str(rank) for rank in missing[:8]) + (" ..." if len(missing) > 8 else "")
            raise FirstlightError(
                f"{len(missing)} of {node.count} nodes did not come within {node.join_seconds} s: NODE_RANK {shown}"
            )
        time.sleep(_POLL_SECONDS)


def _part(node: Node, store: PrefixStore) -> None:
    """A node whose master is gone has nobody to tell."""
    with suppress(DistError):
        store.add("parted", 1)
        end = time.monotonic() + _FAREWELL_SECONDS
        while node.rank == 0 and store.add("parted", 0) < node.count and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)


def _seconds(seconds: int) -> timedelta:
    return timedelta(seconds=seconds)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
