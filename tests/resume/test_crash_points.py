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


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kills", [4, 250])
def test_killed_at_chance_moments(tmp_path: Path, kills: int, asynchronous: bool) -> None:
    run = make_tiny_run(tmp_path)
    done = subprocess.run(
        [sys.executable, killed_runs.__file__, str(kills), *arguments(asynchronous)],
        cwd=run.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60 + 40 * kills,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(f"asynchronous={asynchronous}: {counts}\n")
    assert counts["kills"] == kills
    assert counts["finished"] > 0
    if kills > 100:
        assert counts["in_a_save"] > kills // 20


def arguments(asynchronous: bool) -> list[str]:
    return train_arguments(*OVERRIDES, f"checkpoint.asynchronous={str(asynchronous).lower()}")
