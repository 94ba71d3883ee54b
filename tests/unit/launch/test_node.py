"""Nodes that are started by hand meet at the master's address, or each says what is wrong."""

import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from firstlight.base.errors import FirstlightError
from firstlight.config.training import ResilienceConfig
from firstlight.launch.interface import interface_of
from firstlight.launch.ledger import Ledger
from firstlight.launch.member import Group, Member
from firstlight.launch.node import Node, local_address
from firstlight.launch.sizes import Sizes
from firstlight.launch.supervisor import Supervisor

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 60


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def node(rank: int, count: int, port: int, *, seconds: int = 20, address: str = "127.0.0.1") -> Node:
    return Node(rank=rank, count=count, num_ranks=1, address=address, port=port, join_seconds=seconds)


def member(one: Node, token: bytes = b"the job's") -> Member:
    ledger = Ledger(Path("/nowhere"))
    group = Group(token=token, sizes=Sizes(fewest=one.count, most=one.count))
    return Member(one, Supervisor(config=ResilienceConfig(), ledger=ledger, save_last_state=lambda: None), group)


def outcome(one: Node, token: bytes = b"the job's") -> str:
    """What a node says when it does not meet the others; "run" when it does."""
    try:
        with member(one, token) as me:
            order = me.next_order()
            time.sleep(2)  # for the others to hear it
            return order.message.removeprefix("error: ") if order.kind == "stop" else order.kind
    except FirstlightError as error:
        return str(error)


def outcomes(nodes: Sequence[Node]) -> list[str]:
    with ThreadPoolExecutor(len(nodes)) as pool:
        return [found.result(TIMEOUT_SECONDS) for found in [pool.submit(outcome, one) for one in nodes]]


def test_nodes_meet_in_any_order() -> None:
    port = free_port()
    assert outcomes([node(2, 3, port), node(1, 3, port), node(0, 3, port)]) == ["run"] * 3


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


def test_supervisor_and_store_listen_at_the_masters_address_alone() -> None:
    before = listening()
    with member(node(0, 1, free_port())) as me:
        assert me.next_order().store.startswith("127.0.0.1:")
        new = listening() - before
    assert len(new) == 2
    assert {address for address, _ in new} == {"0100007F"}


def listening() -> set[tuple[str, str]]:
    """Address and port of sockets that listen (state 0A), as hexadecimal; the address's bytes are reversed."""
    tables = [Path(f"/proc/net/{table}").read_text().splitlines()[1:] for table in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    places = [row[1].partition(":") for row in rows if row[3] == "0A"]
    return {(address, port) for address, _, port in places}


def test_the_first_node_must_be_the_master() -> None:
    told = outcome(node(0, 2, free_port(), address="192.0.2.1"))
    assert told.startswith("NODE_RANK = 0 must be the node whose address MASTER_ADDR = 192.0.2.1 is")


def test_a_dead_master_is_named() -> None:
    port = free_port()
    told = outcome(node(1, 2, port, seconds=1))
    assert told == f"1 of 2 nodes did not come within 1 s: node 0 (127.0.0.1:{port})"


def test_missing_nodes_are_named() -> None:
    assert outcome(node(0, 3, free_port(), seconds=1)) == "2 of 3 nodes did not come within 1 s: node 1, node 2"


def test_a_node_without_the_token_is_kept_out(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(outcome, node(0, 2, port, seconds=3))
        other = pool.submit(outcome, node(1, 2, port, seconds=3), b"another")
        assert first.result(TIMEOUT_SECONDS) == "1 of 2 nodes did not come within 3 s: node 1"
        assert other.result(TIMEOUT_SECONDS) == f"1 of 2 nodes did not come within 3 s: node 0 (127.0.0.1:{port})"
    assert "is refused: it does not know the job's token" in caplog.text


def test_the_interface_follows_from_the_route() -> None:
    address = local_address(node(1, 2, 8118))
    assert address.startswith("127.")
    assert interface_of(address) == "lo"
    assert interface_of("192.0.2.1") is None
