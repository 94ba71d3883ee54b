"""Faults of a run on several nodes: named once, all nodes start again together, the weights are an undisturbed run's.

The nodes are supervisors on this machine that share nothing but the run's folder; those of the last tests are network
namespaces, whose link can be cut.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firstlight.checkpoint.memory import SHARED_MEMORY
from firstlight.checkpoint.step_folder import candidates
from tests.faults.several_nodes import RUN, Nodes
from tests.faults.test_nodes import MASTER, ip
from tests.faults.test_nodes import nodes as namespaces
from tests.runs import TinyRun, make_tiny_run, wait_until
from tests.unit.launch.test_node import free_port

__all__ = ["namespaces"]  # a fixture

STEPS = 20
KILL_AT = 5
JUDGED_SECONDS = 20
"""From a supervisor's death until the others have ended their ranks and know why. Generous, for a loaded machine."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="this machine has no /dev/shm"),
]

Start = Callable[..., Nodes]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, bytes]]:
    """What so many ranks of one machine end with."""
    known: dict[int, dict[str, bytes]] = {}

    def last(count: int) -> dict[str, bytes]:
        if count not in known:
            run = make_tiny_run(tmp_path_factory.mktemp(f"undisturbed-{count}"))
            done = run.train(*RUN, f"training.steps={STEPS}", *DIVIDED[count], processes=count)
            assert done.returncode == 0, done.stderr
            known[count] = last_tensors(run)
        return known[count]

    return last


DIVIDED = {2: (), 3: ("training.global_batch_size=6",)}
"""What makes the batch divisible by so many ranks."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Start]:
    made: list[Nodes] = []

    def start(*overrides: str, count: int = 2, **facts: Any) -> Nodes:
        run = make_tiny_run(tmp_path)
        given = (*DIVIDED[count], *overrides)
        one = Nodes(run=run, count=count, port=free_port(), steps=STEPS, overrides=given, **facts)
        made.append(one)
        one.start()
        return one

    yield start
    for one in made:
        one.close()


def last_tensors(run: TinyRun) -> dict[str, bytes]:
    """Weights and moments after the last step, as they lie on the disk."""
    newest = candidates(run.checkpoints)[0]
    assert newest.name == f"step-{STEPS:08d}"
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


def events(one: Nodes, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (one.run.output / "faults.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def assert_recovered(one: Nodes, kind: str, rank: int, cause: str) -> dict[str, Any]:
    """One fault, named once on each node that lived, and at most one step lost."""
    assert one.end() == [0] * one.count, [one.said(rank) for rank in range(one.count)]
    (fault,) = events(one, "fault")
    assert (fault["kind"], fault["rank"], fault["action"]) == (kind, rank, "restart")
    assert cause in fault["cause"]
    (recovered,) = events(one, "recovered")
    assert recovered["steps_lost"] <= 1
    assert [line["samples"] for line in one.run.metrics("step")][-1] == STEPS * (4 if one.count == 2 else 6)
    return fault


@pytest.mark.parametrize(
    ("fault", "kind", "cause"),
    [
        ("kill", "SIGKILL", "was ended by SIGKILL"),
        ("stop", "frozen", "is frozen in step 7: no thread of it has run for"),
        ("hang", "hung", "is hung in step 7: it has been in data for"),
    ],
)
def test_a_rank_of_another_node(
    nodes: Start, undisturbed: Callable[[int], dict[str, bytes]], fault: str, kind: str, cause: str
) -> None:
    one = nodes(f"resilience.inject=[{{kind: {fault}, rank: 1, step: 7}}]")
    found = assert_recovered(one, kind, 1, cause)
    assert found["step"] == 7
    for rank in (0, 1):
        assert one.said(rank).count(cause) == 1
        assert "step 7 was under way; the ranks start again" in one.said(rank)
    if fault == "hang":
        assert "in before_step" in one.said(0), "where it hangs, on the other node"
        assert "; it is in <lambda> (planted_faults.py:" in found["cause"], "in the line of the ledger too"
    if fault != "kill":
        traces = one.run.output / found["traces"]
        assert f"stacks and collectives of the ranks: {traces}" in one.said(0)
        answered = {0} if fault == "stop" else {0, 1}
        assert {path.name for path in traces.glob("collectives-*")} == {f"collectives-{rank}.json" for rank in answered}
        assert {path.name for path in traces.glob("stacks-*")} == {f"stacks-{rank}.txt" for rank in answered}
    assert last_tensors(one.run) == undisturbed(2)
    assert not list(SHARED_MEMORY.glob(f"{one.memory(0).name.removesuffix('0')}*")), "memory is freed at the end"


@pytest.mark.parametrize("lost", [1, 0])
@pytest.mark.parametrize("forgets", [False, True])
def test_a_node_that_comes_back(
    nodes: Start, undisturbed: Callable[[int], dict[str, bytes]], lost: int, forgets: bool
) -> None:
    """Its supervisor is killed, that of the node that leads too; its memory is there, or it is another machine."""
    one = nodes()
    wait_until(lambda: one.steps_done() >= KILL_AT)
    one.kill(lost, forgets=forgets)
    wait_until(lambda: "is lost" in one.said(1 - lost))
    one.start(lost)
    fault = assert_recovered(one, "node lost", lost, f"node {lost} (127.0.0.1:")
    judged_after = fault["time"] - float((one.run.folder / "killed-at").read_text())
    assert judged_after < JUDGED_SECONDS
    assert one.said(1 - lost).count("is lost") == 1
    assert ("comes from node" in one.said(lost)) == forgets
    assert last_tensors(one.run) == undisturbed(2)


def test_the_node_that_leads_is_lost_among_three(nodes: Start, undisturbed: Callable[[int], dict[str, bytes]]) -> None:
    one = nodes(count=3)
    wait_until(lambda: one.steps_done() >= KILL_AT)
    one.kill(0, forgets=True)
    wait_until(lambda: "node 0 (127.0.0.1:" in one.said(1) and "node 0 (127.0.0.1:" in one.said(2))
    one.start(0)
    assert_recovered(one, "node lost", 0, "node 0 (127.0.0.1:")
    assert "comes from node 1 of the run" in one.said(0)
    assert last_tensors(one.run) == undisturbed(3)


def test_a_damaged_snapshot_comes_from_the_peer(nodes: Start, undisturbed: Callable[[int], dict[str, bytes]]) -> None:
    one = nodes()
    wait_until(lambda: one.steps_done() >= KILL_AT)
    one.kill(1)
    for file in one.memory(1).glob("step-*/model-00002-*"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    one.start(1)
    assert one.end() == [0, 0], [one.said(0), one.said(1)]
    assert "snapshot passed over" in one.said(1)
    assert "comes from node 0 of the run" in one.said(1)
    assert last_tensors(one.run) == undisturbed(2)


@pytest.mark.parametrize("lost", [1, 0])
def test_a_node_that_does_not_come_back(
    nodes: Start, undisturbed: Callable[[int], dict[str, bytes]], lost: int
) -> None:
    one = nodes("resilience.node_return_seconds=3")
    wait_until(lambda: one.steps_done() >= KILL_AT)
    one.kill(lost, forgets=True)
    assert one.processes[1 - lost].wait(60) == 1
    said = one.said(1 - lost)
    assert "error: 1 of 2 nodes did not come back within 3 s (resilience.node_return_seconds): node" in said
    assert f"node {lost} (127.0.0.1:" in said.partition("did not come back")[2]
    (saved,) = candidates(one.run.checkpoints)
    assert f"the last state in memory is saved in {saved}" in said
    shutil.rmtree(one.memory(1 - lost))
    one.start()
    assert one.end() == [0, 0], [one.said(0), one.said(1)]
    assert f"done: steps {int(saved.name[5:]) + 1} to {STEPS}" in one.said(0)
    assert last_tensors(one.run) == undisturbed(2)


def test_the_same_failure_over_and_over_ends_the_run_on_all_nodes(nodes: Start) -> None:
    faults = ", ".join("{kind: raise, rank: 1, step: 7}" for _ in range(3))
    one = nodes(f"resilience.inject=[{faults}]")
    assert one.end() == [1, 1]
    for rank in (0, 1):
        assert "RuntimeError of rank 1 in step 7 came 3 times (resilience.same_failure_limit)" in one.said(rank)
    assert [fault["action"] for fault in events(one, "fault")] == ["restart", "restart", "stop"]
    assert [folder.name for folder in candidates(one.run.checkpoints)] == ["step-00000006"]


def test_a_link_that_is_cut_and_comes_back(
    nodes: Start, namespaces: list[str], undisturbed: Callable[[int], dict[str, bytes]]
) -> None:
    """Nothing closes a connection: only silence tells."""
    prefix = {rank: ("ip", "netns", "exec", name) for rank, name in enumerate(namespaces)}
    one = nodes(host=MASTER, prefix=prefix)
    wait_until(lambda: one.steps_done() >= KILL_AT)
    end = f"fl{namespaces[1].split('-')[1]}1"
    assert ip("-n", namespaces[1], "link", "set", end, "down")
    wait_until(lambda: "is lost" in one.said(0) and one.steps_done() >= KILL_AT)
    assert ip("-n", namespaces[1], "link", "set", end, "up")
    assert one.end() == [0, 0], [one.said(0), one.said(1)]
    assert one.said(0).count("is lost: no sign of life for 5") == 1
    (recovered, *_) = events(one, "recovered")
    assert recovered["steps_lost"] <= 1
    assert last_tensors(one.run) == undisturbed(2)


def test_a_request_to_stop_one_node_stops_all(nodes: Start) -> None:
    one = nodes()
    wait_until(lambda: one.steps_done() >= KILL_AT)
    one.processes[1].terminate()
    assert one.end() == [75, 75], [one.said(0), one.said(1)]
    assert not (one.run.output / "faults.jsonl").exists()
    (saved,) = candidates(one.run.checkpoints)
    one.start()
    assert one.end() == [0, 0]
    assert f"done: steps {int(saved.name[5:]) + 1} to {STEPS}" in one.said(0)
