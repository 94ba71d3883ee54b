"""Nodes over real connections, all in this process: one of them dies, and the others go on with it when it is back."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from firstlight.base.heartbeat import Beat
from firstlight.config.training import ResilienceConfig
from firstlight.launch.agent import Elsewhere, Pause
from firstlight.launch.cause import Cause
from firstlight.launch.ledger import Ledger
from firstlight.launch.member import Group, Member, Report
from firstlight.launch.node import Node
from firstlight.launch.sizes import Sizes
from firstlight.launch.supervisor import Supervisor
from firstlight.launch.words import Order
from tests.runs import wait_until
from tests.unit.launch.test_node import free_port

CONFIG = ResilienceConfig(node_lost_after_seconds=2, node_return_seconds=3)
FOLLOWS = Cause(message="error: connection closed by peer", exit_code=1, kind="error", rank=0, is_consequence=True)
TIMEOUT_SECONDS = 20


@dataclass(kw_only=True)
class Cluster:
    """`count` nodes; their ranks are what the test says they are."""

    folder: Path
    count: int
    fewest: int = 0
    port: int = field(default_factory=free_port)
    members: dict[int, Member] = field(default_factory=dict)
    opened: dict[int, ExitStack] = field(default_factory=dict)

    def start(self, *ranks: int) -> None:
        for rank in ranks:
            node = Node(rank=rank, count=self.count, num_ranks=1, address="127.0.0.1", port=self.port, join_seconds=20)
            ledger = Ledger(self.folder)
            supervisor = Supervisor(config=CONFIG, ledger=ledger, save_last_state=lambda: None)
            self.opened[rank] = ExitStack()
            group = Group(token=b"token", sizes=Sizes(fewest=self.fewest or self.count, most=self.count))
            self.members[rank] = self.opened[rank].enter_context(Member(node, supervisor, group))

    def die(self, rank: int) -> None:
        """All its connections end."""
        self.opened.pop(rank).close()
        del self.members[rank]

    def orders(self) -> dict[int, Order]:
        return {rank: member.next_order() for rank, member in sorted(self.members.items())}

    def work(self, *ranks: int) -> None:
        """They have done six steps."""
        for rank in ranks:
            assert self.members[rank].watch([beat(rank)]) is None
        time.sleep(0.6)  # until that is said

    def wait_for_end(self, rank: int) -> Elsewhere:
        end = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < end:
            told = self.members[rank].watch([beat(rank)])
            if told is not None:
                assert isinstance(told, Elsewhere)
                return told
            time.sleep(0.05)
        raise TimeoutError(f"node {rank} was not told to end its ranks")


def beat(rank: int) -> Beat:
    now = time.monotonic()
    return Beat(
        rank=rank,
        pid=1,
        first_step=0,
        step=6,
        num_phases=1,
        phase="data",
        began=now,
        longest_seconds=1.0,
        beaten=now,
    )


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Cluster]:
    yield from started(tmp_path, 2)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    yield from started(tmp_path, 3)


def started(folder: Path, count: int) -> Iterator[Cluster]:
    cluster = Cluster(folder=folder, count=count)
    cluster.start(*range(count))
    assert {order.round for order in cluster.orders().values()} == {1}
    cluster.work(*range(count))
    yield cluster
    for stack in cluster.opened.values():
        stack.close()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_node_that_dies_is_named_and_waited_for(two: Cluster, lost: int, caplog: pytest.LogCaptureFixture) -> None:
    two.die(lost)
    assert two.wait_for_end(1 - lost).at_once
    two.members[1 - lost].report(Report(exit_code=1, cause=FOLLOWS))
    two.start(lost)
    orders = two.orders()
    assert [(order.kind, order.round, order.party) for order in orders.values()] == [("run", 2, (0, 1))] * 2
    (fault,) = orders[lost].history
    assert (fault.kind, fault.rank, fault.step, fault.action) == ("node lost", lost, 7, "restart")
    assert "is lost: its supervisor has ended" in fault.cause
    assert caplog.text.count("step 7 was under way; the ranks start again") == 2, "once on each node"


def test_ranks_that_notice_before_their_supervisor_are_not_the_cause(two: Cluster) -> None:
    two.die(0)
    two.members[1].report(Report(exit_code=1, cause=FOLLOWS))
    two.start(0)
    (fault,) = two.orders()[0].history
    assert fault.kind == "node lost"


def test_two_go_on_when_the_one_that_leads_is_back(three: Cluster) -> None:
    three.die(0)
    for rank in (1, 2):
        three.wait_for_end(rank)
        three.members[rank].report(Report(exit_code=1, cause=FOLLOWS))
    time.sleep(2)
    three.start(0)
    orders = three.orders()
    assert {order.round for order in orders.values()} == {2}
    assert [len(order.history) for order in orders.values()] == [1, 1, 1]


def test_a_node_that_does_not_come_back_ends_the_run(two: Cluster) -> None:
    two.die(0)
    two.wait_for_end(1)
    two.members[1].report(Report(exit_code=1, cause=FOLLOWS))
    order = two.orders()[1]
    assert (order.kind, order.exit_code) == ("stop", 1)
    assert order.message.startswith("error: 1 of 2 nodes did not come back within 3 s")
    assert f"node 0 (127.0.0.1:{two.port})" in order.message


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_goes_on_alone_and_makes_room_when_the_other_comes_back(two: Cluster, lost: int) -> None:
    """The one that leads too: it is found, and leads again."""
    for member in two.members.values():
        member._council.sizes = Sizes(fewest=1, most=2)
    two.fewest = 1
    two.die(lost)
    two.wait_for_end(1 - lost)
    two.members[1 - lost].report(Report(exit_code=1, cause=FOLLOWS))
    alone = two.members[1 - lost]
    order = alone.next_order()
    assert (order.kind, order.round, order.party) == ("run", 2, (1 - lost,))
    two.start(lost)
    wait_until(lambda: alone.watch([beat(1 - lost)]) == Pause(), timeout=TIMEOUT_SECONDS)
    alone.report(Report(exit_code=75, cause=None))
    orders = two.orders()
    assert [(order.kind, order.round, order.party) for order in orders.values()] == [("run", 3, (0, 1))] * 2
    assert [fault.kind for fault in orders[lost].history] == ["node lost"], "nothing else has failed"
