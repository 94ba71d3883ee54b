"""A run on a mixture of sources goes on where it was killed: its position is one number, whatever is mixed."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from firstlight.checkpoint.manifest import Manifest, read_manifest
from firstlight.checkpoint.step_folder import candidates
from tests.runs import TinyRun, command, environment, make_tiny_run, train_arguments, wait_until

SOURCES = "[{path: data/tiny_text_document, weight: 3}, {path: data/tiny_heldout_text_document}]"


def overrides(order: str) -> tuple[str, ...]:
    return (
        "training.steps=6",
        f"data.train.sources={SOURCES}",
        f"data.train.order={order}",
        "checkpoint.save_every_steps=2",
    )


def finish(run: TinyRun, order: str) -> tuple[Manifest, str]:
    done = run.train(*overrides(order))
    assert done.returncode == 0, done.stderr
    return read_manifest(candidates(run.checkpoints)[0]), done.stderr


@pytest.mark.parametrize("order", ["megatron", pytest.param("permuted", marks=pytest.mark.slow)])
def test_a_killed_mixture_ends_as_an_undisturbed_one(tmp_path: Path, order: str) -> None:
    reference, log = finish(make_tiny_run(tmp_path / "undisturbed"), order)
    assert f"training data: 2 sources, order {order}" in log
    assert "weight 0.75; the run reads 18 samples" in log
    run = make_tiny_run(tmp_path / "disturbed")
    process = subprocess.Popen(
        command(*train_arguments(*overrides(order))),
        cwd=run.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: len(run.metrics("step")) >= 3 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    disturbed, _ = finish(run, order)
    assert disturbed.files == reference.files
    assert disturbed.state == reference.state
