"""Nodes that are started by hand meet at the master's address, or each says what is wrong."""

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from firstlight.base.errors import FirstlightError
from firstlight.launch.interface import interface_of
from firstlight.launch.node import Node, local_address, met

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 60


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def node(rank: int, count: int, port: int, *, seconds: int = 20, address: str = "127.0.0.1") -> Node:
    return Node(rank=rank, count=count, address=address, port=port, join_seconds=seconds)


def outcome(one: Node) -> str:
    """What a node says when it does not meet the others; nothing when it does."""
    try:
        with met(one):
            return ""
    except FirstlightError as error:
        return str(error)


def outcomes(nodes: Sequence[Node]) -> list[str]:
    with ThreadPoolExecutor(len(nodes)) as pool:
        return [found.result(TIMEOUT_SECONDS) for found in [pool.submit(outcome, one) for one in nodes]]


def test_nodes_meet_in_any_order() -> None:
    port = free_port()
    assert outcomes([node(2, 3, port), node(1, 3, port), node(0, 3, port)]) == ["", "", ""]


def test_two_nodes_of_one_rank_are_told_to_all() -> None:
    port = free_port()
    told = outcomes([node(0, 3, port), node(1, 3, port), node(1, 3, port)])
    assert told == ["two nodes have NODE_RANK = 1; give each its own, from 0 to 2"] * 3


def test_nodes_that_count_differently_are_told() -> None:
    port = free_port()
    told = outcomes([node(0, 3, port), node(1, 4, port)])
    assert all("do not agree on how many they are" in one for one in told)


def test_a_second_first_node_finds_the_port_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        assert "another node with NODE_RANK = 0" in outcome(node(0, 2, port))


def test_the_store_listens_at_the_masters_address_alone() -> None:
    one = node(0, 1, free_port())
    with met(one):
        # Address and port of sockets that listen (state 0A), as hexadecimal; the address's bytes are reversed.
        rows = [
            line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()
        ]
        listening = [row[1].split(":") for row in rows[1:] if row[3] == "0A"]
    assert [address for address, port in listening if int(port, 16) == one.port] == ["0100007F"]


def test_the_first_node_must_be_the_master() -> None:
    told = outcome(node(0, 2, free_port(), address="192.0.2.1"))
    assert told.startswith("NODE_RANK = 0 must be the node whose address MASTER_ADDR = 192.0.2.1 is")


def test_a_dead_master_is_named() -> None:
    port = free_port()
    told = outcome(node(1, 2, port, seconds=1))
    assert told.startswith(f"the master 127.0.0.1:{port} did not answer within 1 s; is the node with NODE_RANK = 0")


def test_a_missing_node_is_named() -> None:
    assert outcome(node(0, 3, free_port(), seconds=1)).startswith(
        "2 of 3 nodes did not come within 1 s: NODE_RANK 1, 2"
    )


def test_the_interface_follows_from_the_route() -> None:
    address = local_address(node(1, 2, 8118))
    assert address.startswith("127.")
    assert interface_of(address) == "lo"
    assert interface_of("192.0.2.1") is None
