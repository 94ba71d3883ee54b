"""A rank that fails ends all others within seconds, and the launcher says once what failed first."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from firstlight.observe.events import read_events
from tests.faults.faulty import FAULTY_STEP
from tests.runs import TIMEOUT_SECONDS, TinyRun, environment, make_tiny_run, train_arguments

ROOT = Path(__file__).parents[2]
BATCH = ("training.global_batch_size=12", "training.micro_batch_size=1")
"""It divides over one to four processes."""

ALL_GONE_SECONDS = 15
"""Generous: 2 for last words, 3 until a rank that does not hear is killed, and a loaded machine."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a faulty run ended."""

    exit_code: int
    err: str
    seconds: float
    """From the fault until the launcher was gone."""


@pytest.fixture
def run(tmp_path: Path) -> TinyRun:
    return make_tiny_run(tmp_path)


def run_faulty(run: TinyRun, fault: str, *, processes: int, overrides: tuple[str, ...] = ()) -> Ended:
    """Train with the fault; the ranks are gone when this returns, which it makes sure of."""
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join((variables["PYTHONPATH"], str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.launcher", fault, str(processes), *train_arguments(*BATCH, *overrides)],
        cwd=run.folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    end = time.time()
    begun = min(float(path.read_text().split()[0]) for path in run.folder.glob("fault-*"))
    pids = [int(path.read_text()) for path in run.folder.glob("rank-*.pid")]
    assert len(pids) == processes
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    return Ended(exit_code=done.returncode, err=done.stderr, seconds=end - begun)


def said_once(ended: Ended) -> str:
    """The one message, without its `error: `."""
    assert ended.err.count("error: ") == 1, ended.err
    assert ended.seconds < ALL_GONE_SECONDS
    return ended.err.partition("error: ")[2].rstrip("\n")


@pytest.mark.parametrize(
    ("fault", "processes"),
    [
        ("bug", 2),
        pytest.param("bug", 4, marks=pytest.mark.slow),
        pytest.param("beside_sleepers", 2, marks=pytest.mark.slow),
    ],
)
def test_a_bug_of_one_rank(run: TinyRun, fault: str, processes: int) -> None:
    ended = run_faulty(run, fault, processes=processes)
    assert ended.exit_code == 1
    first, *frames, where = said_once(ended).splitlines()
    assert first.startswith(f"rank {processes - 1} on host ")
    assert first.endswith(" failed: ValueError: a planted bug")
    assert sum(line.startswith('  File "') for line in frames) == 3, ended.err
    assert frames[-1].strip() == 'raise ValueError("a planted bug")'
    log = run.output / "logs" / f"rank-{processes - 1}.log"
    assert where == f"the whole trace: {log}"
    assert "in train_step" in log.read_text()
    assert ended.err.count("Traceback") == 0


@pytest.mark.slow
def test_the_run_goes_on_after_a_failure(run: TinyRun) -> None:
    """The logs of a run that failed before its folder was its own are no foreign files."""
    run_faulty(run, "bug", processes=2)
    done = run.train(*BATCH)
    assert done.returncode == 0, done.stderr
    assert "done: steps 1 to 4" in done.stderr


def test_a_rank_is_killed_in_a_collective(run: TinyRun) -> None:
    ended = run_faulty(run, "killed", processes=3)
    assert ended.exit_code == 1
    message = said_once(ended)
    assert message.startswith("rank 2 on host ")
    assert "was ended by SIGKILL; the kernel does so when memory is short" in message
    assert len(message.splitlines()) == 1


@pytest.mark.slow
def test_a_rank_runs_out_of_memory(run: TinyRun) -> None:
    ended = run_faulty(run, "memory", processes=2)
    first = said_once(ended).splitlines()[0]
    assert first.startswith("rank 1 on host ")
    assert "can't allocate memory" in first
    assert ended.exit_code == 1


@pytest.mark.slow
def test_a_rank_fails_while_others_wait_for_it_to_join(run: TinyRun) -> None:
    ended = run_faulty(run, "before_joining", processes=3)
    assert ended.exit_code == 1
    assert said_once(ended).startswith("rank 2 on host ")
    assert "RuntimeError: a planted bug" in ended.err


def test_the_same_wrong_input_of_all_ranks(run: TinyRun) -> None:
    ended = run_faulty(run, "same_input_error", processes=3)
    assert ended.exit_code == 2
    assert said_once(ended).partition(" (rank")[0] == "a planted fault of the input"
    assert not run.output.exists()


def test_the_faults_are_planted_within_the_run() -> None:
    assert 1 < FAULTY_STEP < 4


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("parallelism.data_parallel_replicate=2",)])
def test_numbers_that_are_not_finite_are_traced_to_rank_layer_and_samples(
    run: TinyRun, overrides: tuple[str, ...]
) -> None:
    """A layer of rank 1 gives NaN for the second of its micro-batches; all ranks' sums are spoilt by it."""
    ended = run_faulty(run, "not_finite", processes=2, overrides=overrides)
    assert ended.exit_code == 0, ended.err
    source = "first in what layers.1 gives from sample(s) 15, on rank(s) 1"
    assert ended.err.count(f"step 2: gradient norm is nan, loss nan, {source}; not applied") == 1
    (event,) = (one for one in read_events(run.output / "events.jsonl") if one.kind == "skip")
    assert event.text == f"update left out: gradient norm nan, {source}"
