"""Training processes killed at chance moments: always a loadable checkpoint, and in the end the weights of no kill."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.resume import killed_runs
from tests.runs import environment, make_tiny_run, train_arguments

# A save at every step, or nearly so: most kills meet one.
OVERRIDES = (
    "training.steps=16",
    "training.global_batch_size=4",
    "training.micro_batch_size=4",
    "checkpoint.save_every_steps=1",
    "checkpoint.keep_last=2",
    "data.evaluate=[]",
    "monitor.sinks=[jsonl]",
)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kills", [4, pytest.param(250, marks=pytest.mark.slow)])
def test_killed_at_chance_moments(tmp_path: Path, kills: int, asynchronous: bool) -> None:
    run = make_tiny_run(tmp_path)
    seconds = longest_life(run.folder, asynchronous)
    done = subprocess.run(
        [sys.executable, killed_runs.__file__, str(kills), str(seconds), *arguments(asynchronous)],
        cwd=run.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60 + 40 * kills,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(f"asynchronous={asynchronous}, lives of at most {seconds:.1f} s: {counts}\n")
    assert counts["kills"] == kills
    if kills > 100:
        assert counts["in_a_save"] > kills // 20
        assert counts["finished"] > 1


def arguments(asynchronous: bool) -> list[str]:
    return train_arguments(*OVERRIDES, f"checkpoint.asynchronous={str(asynchronous).lower()}")


def longest_life(folder: Path, asynchronous: bool) -> float:
    """Seconds of a forked run that is left alone, on this machine now: kills are spread over them."""
    program = "import sys; from tests.resume.killed_runs import ended_within, start\n"
    program += "import time; t = time.monotonic(); assert ended_within(start(sys.argv[1:]), 300) == 0\n"
    program += "print(time.monotonic() - t)"
    words = [*arguments(asynchronous), "--set", "training.output_folder=timed"]
    path = f"{environment()['PYTHONPATH']}:{Path(__file__).parents[2]}"
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        env=environment() | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return float(done.stdout)
