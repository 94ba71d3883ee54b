"""A node that is lost for good: the run goes on with the others, and takes another one in when it comes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firstlight.checkpoint.memory import SHARED_MEMORY
from tests.faults.several_nodes import RUN, Nodes
from tests.faults.test_several_nodes import events
from tests.runs import TinyRun, make_tiny_run, wait_until
from tests.unit.launch.test_node import free_port

STEPS = 24
KILL_AT = 5
SLOW = ", ".join(f"{{kind: slow, rank: 0, step: {step}, seconds: 3}}" for step in range(9, 20))
"""A run that has time for what comes; rank 0 is there in every layout."""
ELASTIC = ("resilience.min_nodes=1", "resilience.node_return_seconds=3")
RELATIVE = 1e-5
"""Of losses: sums over two ranks are rounded otherwise than those of one."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="this machine has no /dev/shm"),
]

Start = Callable[..., Nodes]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Start]:
    made: list[Nodes] = []

    def start(*overrides: str) -> Nodes:
        run = make_tiny_run(tmp_path / "run")
        one = Nodes(run=run, count=2, port=free_port(), steps=STEPS, overrides=(*ELASTIC, *overrides))
        made.append(one)
        one.start()
        return one

    yield start
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    run = make_tiny_run(tmp_path_factory.mktemp("undisturbed"))
    done = run.train(*RUN, f"training.steps={STEPS}", processes=2)
    assert done.returncode == 0, done.stderr
    return [line["loss"] for line in run.metrics("step")]


def assert_same_course(run: TinyRun, undisturbed: list[float]) -> None:
    """Every step is there once, with the samples and the loss that it has in an undisturbed run."""
    lines = run.metrics("step")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["samples"] for line in lines] == [4 * step for step in range(1, STEPS + 1)]
    assert [line["loss"] for line in lines] == pytest.approx(undisturbed, rel=RELATIVE)


@pytest.mark.parametrize("lost", [1, 0])
def test_one_goes_on_alone(nodes: Start, undisturbed: list[float], lost: int) -> None:
    """From its own memory, which has a copy of the other's part; the one that led is lost too."""
    one = nodes()
    wait_until(lambda: one.steps_done() >= KILL_AT)
    one.kill(lost, forgets=True)
    assert one.processes[1 - lost].wait(150) == 0, one.said(1 - lost)
    said = one.said(1 - lost)
    assert f"1 of 2 nodes go on with 1 rank(s): {1 - lost}; this is node {1 - lost}" in said
    assert f"to {STEPS}, in" in said
    assert_same_course(one.run, undisturbed)
    (recovered,) = events(one, "recovered")
    assert recovered["steps_lost"] <= 1


@pytest.mark.parametrize("lost", [1, 0])
def test_the_other_is_taken_in_again(nodes: Start, undisturbed: list[float], lost: int) -> None:
    one = nodes(f"resilience.inject=[{SLOW}]")
    wait_until(lambda: one.steps_done() >= KILL_AT)
    one.kill(lost, forgets=True)
    wait_until(lambda: "1 of 2 nodes go on" in one.said(1 - lost))
    one.start(lost)
    assert one.end() == [0, 0], [one.said(0), one.said(1)]
    assert "has come; the ranks save after this step and start again with it" in one.said(1 - lost)
    assert f"all 2 nodes are there; this is node {lost}" in one.said(lost)
    assert_same_course(one.run, undisturbed)
    assert len(events(one, "fault")) == len(events(one, "recovered")) == 1, "who leads then knows of both"
