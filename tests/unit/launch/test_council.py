"""What the node that leads makes of what all nodes say: words in, orders out, on a clock of the test's."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from firstlight.base.heartbeat import Beat
from firstlight.config.training import ResilienceConfig
from firstlight.launch.cause import Cause
from firstlight.launch.council import Council
from firstlight.launch.ledger import Ledger
from firstlight.launch.node import Node
from firstlight.launch.sizes import Sizes
from firstlight.launch.supervisor import Supervisor
from firstlight.launch.words import Order, Word

CONFIG = ResilienceConfig(node_lost_after_seconds=5, node_return_seconds=60, same_failure_limit=2)
KILLED = Cause(message="error: rank 1 was ended by SIGKILL", exit_code=1, kind="SIGKILL", rank=1)
FOLLOWS = Cause(message="error: connection closed by peer", exit_code=1, kind="error", rank=0, is_consequence=True)


@dataclass(kw_only=True)
class Scene:
    """A council, led by one node, on a clock that stands still until it is moved."""

    folder: Path
    leader: int = 0
    count: int = 2
    sizes: Sizes | None = None
    now: float = 100.0
    orders: dict[int, Order] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ledger = Ledger(self.folder, clock=lambda: self.now)
        self.council = Council(
            node=Node(rank=self.leader, count=self.count, num_ranks=1, address="10.0.0.1", port=8118, join_seconds=30),
            supervisor=Supervisor(config=CONFIG, ledger=ledger, save_last_state=lambda: None),
            instance="leader",
            open_store=lambda: "10.0.0.1:9999",
            sizes=self.sizes or Sizes(fewest=self.count, most=self.count),
            clock=lambda: self.now,
        )

    def say(self, node: int, state: str = "waits", **facts: object) -> Order:
        """The node's word, with what it has been told before; the answer."""
        known = self.orders.get(node)
        told = {"job": known.job, "history": known.history} if known is not None else {}
        word = {"node": node, "count": self.count, "instance": f"{node}", "address": f"10.0.0.{node + 1}:1", **told}
        self.orders[node] = self.council.answer(Word.model_validate(word | {"state": state} | facts))
        return self.orders[node]

    def kinds(self, *words: tuple[int, str, int], seconds: float = 0.25) -> list[str]:
        """What the nodes are told, one after the other."""
        self.now += seconds
        return [self.say(node, state, round=number).kind for node, state, number in words]

    def in_round_one(self) -> "Scene":
        self.kinds((0, "waits", 0), (1, "waits", 0))
        assert self.kinds((0, "waits", 0), (1, "waits", 0)) == ["run", "run"]
        assert self.kinds((0, "runs", 1), (1, "runs", 1)) == ["run", "run"]
        return self


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(folder=tmp_path)


def known(scene: Scene, node: int) -> dict[str, object]:
    """The last word of a node."""
    return scene.council._heard[node].word.as_json()


def beat(rank: int, *, step: int = 6, beaten: float = 0.0) -> Beat:
    """Times are seconds ago."""
    return Beat(
        rank=rank,
        pid=1,
        first_step=0,
        step=step,
        num_phases=1,
        phase="data",
        began=0.0,
        longest_seconds=1.0,
        beaten=beaten,
    )


def test_nothing_starts_before_all_are_there(scene: Scene) -> None:
    assert scene.kinds((0, "waits", 0)) == ["wait"]
    assert scene.kinds((1, "waits", 0)) == ["run"]
    assert scene.kinds((0, "waits", 0)) == ["run"]
    assert scene.orders[0].party == (0, 1)


def test_a_failure_of_one_ends_all_and_all_start_again(scene: Scene) -> None:
    scene.in_round_one()
    scene.say(1, "ended", round=1, cause=KILLED, beats=(beat(1),))
    assert scene.kinds((0, "runs", 1)) == ["end"]
    scene.say(0, "ended", round=1, cause=FOLLOWS, beats=(beat(0),))
    scene.say(1, "ended", round=1, cause=KILLED)
    order = scene.say(0, "ended", round=1)
    assert (order.kind, order.round) == ("run", 2)
    (fault,) = order.history
    assert (fault.kind, fault.rank, fault.step, fault.action) == ("SIGKILL", 1, 7, "restart")
    assert fault.cause == "rank 1 was ended by SIGKILL", "and not what followed from it"
    assert order.message == "rank 1 was ended by SIGKILL\nstep 7 was under way; the ranks start again"


def test_the_same_failure_ends_the_run_on_all_nodes(scene: Scene) -> None:
    scene.in_round_one()
    for number in (1, 2):
        scene.say(0, "runs", round=number, beats=(beat(0),))
        scene.say(1, "ended", round=number, cause=KILLED, beats=(beat(1),))
        scene.say(0, "ended", round=number, cause=FOLLOWS, beats=(beat(0),))
        scene.say(1, "ended", round=number, cause=KILLED)
    orders = [scene.say(node, "ended", round=2, cause=None) for node in (0, 1)]
    assert [(order.kind, order.exit_code) for order in orders] == [("stop", 1)] * 2
    assert "SIGKILL of rank 1 in step 7 came 2 times (resilience.same_failure_limit)" in orders[1].message


def test_a_silent_node_is_lost_and_named(scene: Scene) -> None:
    scene.in_round_one()
    assert scene.kinds((0, "runs", 1), seconds=4.9) == ["run"]
    assert scene.kinds((0, "runs", 1), seconds=0.6) == ["end"]
    assert scene.orders[0].at_once, "its ranks wait for one that is gone"
    order = scene.say(0, "ended", round=1, cause=FOLLOWS)
    assert order.history[0].cause == "node 1 (10.0.0.2:1) is lost: no sign of life for 5.5 s"
    assert order.kind == "wait"


def test_a_lost_node_comes_before_what_follows_from_it(scene: Scene) -> None:
    scene.in_round_one()
    scene.council.gone(Word.model_validate(known(scene, 1)))
    assert scene.say(0, "ended", round=1, cause=FOLLOWS).kind == "wait"
    assert scene.orders[0].history == (), "node 1 may call again"
    scene.now += 0.6
    order = scene.say(0, "ended", round=1, cause=FOLLOWS)
    assert order.history[0].cause == "node 1 (10.0.0.2:1) is lost: its supervisor has ended"


def test_a_lost_node_that_comes_back_is_waited_for_only_so_long(scene: Scene) -> None:
    scene.in_round_one()
    scene.kinds((0, "runs", 1), seconds=5.5)
    scene.say(0, "ended", round=1, cause=FOLLOWS)
    for _ in range(20):
        scene.kinds((0, "ended", 1), seconds=2.5)
    assert scene.orders[0].kind == "wait"
    # Another machine in its place: another instance, which has seen no round.
    order = scene.say(1, instance="new", address="10.0.0.9:1")
    assert (order.kind, order.round) == ("run", 2)


def test_a_node_that_does_not_come_back_is_named(scene: Scene) -> None:
    scene.in_round_one()
    scene.kinds((0, "runs", 1), seconds=5.5)
    for _ in range(30):
        scene.kinds((0, "ended", 1), seconds=2.5)
    order = scene.orders[0]
    assert (order.kind, order.exit_code) == ("stop", 1)
    assert order.message == (
        "error: 1 of 2 nodes did not come back within 60 s (resilience.node_return_seconds): node 1 (10.0.0.2:1)"
    )


def of_four(folder: Path, *, fewest: int, evenly: bool = False) -> Scene:
    """Four nodes in round one, of which the last is lost; the others have ended."""

    def refusal(count: int) -> str | None:
        return f"the batch does not divide by {count}" if evenly and count == 3 else None

    scene = Scene(folder=folder, count=4, sizes=Sizes(fewest=fewest, most=4, refusal=refusal))
    for state, number in (("waits", 0), ("waits", 0), ("runs", 1)):
        scene.kinds(*((node, state, number) for node in range(4)))
    for _ in range(2):
        scene.kinds(*((node, "runs", 1) for node in range(3)), seconds=2.7)
    for node in range(3):
        scene.say(node, "ended", round=1, cause=FOLLOWS)
    assert [fault.rank for fault in scene.orders[2].history] == [3]
    return scene


def wait_in_vain(scene: Scene) -> None:
    for _ in range(30):
        scene.kinds(*((node, "ended", 1) for node in range(3)), seconds=2.5)


def test_a_run_goes_on_with_fewer_and_takes_in_who_comes_back(tmp_path: Path) -> None:
    scene = of_four(tmp_path, fewest=2)
    for _ in range(23):
        assert set(scene.kinds(*((node, "ended", 1) for node in range(3)), seconds=2.5)) == {"wait"}
    wait_in_vain(scene)
    order = scene.orders[1]
    assert (order.kind, order.round, order.party) == ("run", 2, (0, 1, 2))
    come = {"instance": "new", "address": "10.0.0.9:1"}
    assert scene.say(3, **come).kind == "wait"
    for node in range(3):
        scene.say(node, "runs", round=2, party=(0, 1, 2), beats=(replace(beat(node), first_step=6),))
    assert scene.orders[2].kind == "run", "its ranks may not hear yet"
    for node in range(3):
        scene.say(node, "runs", round=2, beats=(beat(node, step=7),))
    assert scene.orders[2].kind == "pause"
    assert scene.orders[2].message == (
        "node 3 (10.0.0.9:1) has come; the ranks save after this step and start again with it"
    )
    for node in range(3):
        scene.say(node, "done", round=2, exit_code=75)
    order = scene.say(3, **come)
    assert (order.kind, order.round, order.party) == ("run", 3, (0, 1, 2, 3))
    assert [fault.kind for fault in order.history] == ["node lost"]


def test_a_request_to_stop_while_ranks_pause_ends_the_run(tmp_path: Path) -> None:
    scene = of_four(tmp_path, fewest=2)
    wait_in_vain(scene)
    scene.say(3, instance="new")
    for node in range(3):
        scene.say(node, "runs", round=2, beats=(beat(node),))
    assert scene.orders[2].kind == "pause"
    for node in range(3):
        scene.say(node, "done", round=2, exit_code=75, is_asked=node == 1)
    assert (scene.orders[2].kind, scene.orders[2].exit_code) == ("stop", 75)


def test_of_nodes_that_make_no_layout_some_wait(tmp_path: Path) -> None:
    scene = of_four(tmp_path, fewest=2, evenly=True)
    wait_in_vain(scene)
    assert [scene.orders[node].kind for node in range(3)] == ["run", "run", "wait"]
    assert scene.orders[0].party == (0, 1)


def test_too_few_nodes_say_what_would_do(tmp_path: Path) -> None:
    scene = of_four(tmp_path, fewest=3, evenly=True)
    wait_in_vain(scene)
    order = scene.orders[0]
    assert (order.kind, order.exit_code) == ("stop", 1)
    assert order.message.endswith(
        ": node 3 (10.0.0.4:1); 3 are there, which make no layout: the batch does not divide by 3; all 4 would do"
    )


def test_another_node_leads_on_from_what_the_nodes_say(scene: Scene, tmp_path: Path) -> None:
    """Node 0 is gone after round 3, of which no one has judged the end."""
    scene.in_round_one()
    fault = scene.council.supervisor.judge(KILLED, scene.now).fault
    second = Scene(folder=tmp_path, leader=1)
    lost = Cause(message="error: node 0 is lost", exit_code=1, kind="node lost", rank=0)
    order = second.say(1, "ended", round=3, job="j", cause=lost, history=(fault,))
    assert [one.kind for one in order.history] == ["SIGKILL", "node lost"]
    assert order.kind == "wait"
    # Node 0 comes back, knows nothing, and leads: what it hears is judged already.
    third = Scene(folder=tmp_path)
    third.kinds((0, "waits", 0))
    order = third.say(1, "ended", round=3, job="j", cause=lost, history=order.history)
    assert (order.kind, order.round, order.job) == ("run", 4, "j")
    assert [one.kind for one in order.history] == ["SIGKILL", "node lost"]


def test_a_stuck_rank_of_another_node_is_named_by_it(scene: Scene) -> None:
    scene.in_round_one()
    scene.say(0, "runs", round=1, beats=(beat(0),))
    order = scene.say(1, "runs", round=1, beats=(beat(1, beaten=30.0),))
    assert order.kind == "end"
    assert order.stuck is not None
    assert (order.stuck.rank, order.stuck.kind) == (1, "frozen")
    assert scene.say(0, "runs", round=1).traces == order.traces, "all keep theirs at one place"
    stack = Cause(message=f"error: {order.stuck.what}\n  in data", exit_code=1, kind="frozen", rank=1)
    plain = Cause(message=f"error: {order.stuck.what}", exit_code=1, kind="frozen", rank=1)
    scene.say(0, "ended", round=1, cause=plain, traces=order.traces)
    order = scene.say(1, "ended", round=1, cause=stack)
    (fault,) = order.history
    assert fault.kind == "frozen"
    assert re.fullmatch(r"logs/step-7-frozen-\d+", fault.traces)
    assert f"\n  in data\nstacks and collectives of the ranks: {scene.folder / fault.traces}\n" in order.message


def test_a_run_that_is_done_stops_everywhere(scene: Scene) -> None:
    scene.in_round_one()
    assert scene.kinds((0, "done", 1), (1, "runs", 1)) == ["run", "run"]
    assert scene.kinds((1, "done", 1), (0, "done", 1)) == ["stop", "stop"]
    assert scene.orders[0].exit_code == 0
    assert not scene.council.is_over(), "the other has not heard it yet"
    scene.say(1, "leaves", round=1)
    assert scene.council.is_over()


def test_a_second_node_of_a_rank_is_refused_and_the_first_goes_on(scene: Scene) -> None:
    scene.in_round_one()
    other = Word.model_validate({"node": 1, "count": 2, "instance": "other", "address": ""})
    refused = scene.council.answer(other)
    assert (refused.kind, refused.exit_code) == ("stop", 2)
    assert "two nodes have NODE_RANK = 1" in refused.message
    assert scene.kinds((1, "runs", 1)) == ["run"]


def test_ranks_of_a_round_that_the_leader_does_not_know_end(scene: Scene) -> None:
    assert scene.kinds((1, "runs", 5)) == ["end"]
