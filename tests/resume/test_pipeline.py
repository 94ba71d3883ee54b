"""A run of a pipeline that is killed or stopped goes on in another layout: same samples, same losses, same export."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from firstlight.checkpoint.manifest import read_manifest
from firstlight.checkpoint.step_folder import candidates
from tests.runs import TinyRun, command, environment, make_tiny_run, train_arguments, wait_until

STEPS = 6
TOLERANCE = 1e-5
RUN = (
    f"training.steps={STEPS}",
    "training.evaluate_every_steps=2",
    "training.evaluate_samples=5",
    "model.initializer_range=0.1",
    "model.feed_forward.router.bias_update_rate=0.01",
    "optimizer.learning_rate=1e-2",
)
"""Five samples fill no batch of an evaluation."""
LAYOUTS = {
    "alone": (1, ()),
    "pp2": (2, ("parallelism.pipeline_parallel=2",)),
    "tp2_dp2": (4, ("parallelism.tensor_parallel=2",)),
    "cp2": (2, ("parallelism.context_parallel=2",)),
    "pp2_dp2_ep2": (
        4,
        ("parallelism.pipeline_parallel=2", "parallelism.expert_parallel=2", "training.micro_batch_size=1"),
    ),
}


def train(run: TinyRun, layout: str) -> None:
    processes, overrides = LAYOUTS[layout]
    done = run.train(*RUN, *overrides, processes=processes)
    assert done.returncode == 0, done.stderr


def end_early(run: TinyRun, layout: str, number: signal.Signals) -> None:
    """Start the run and send it `number` once it has saved a step; it does not come to its end."""
    processes, overrides = LAYOUTS[layout]
    process = subprocess.Popen(
        command(*train_arguments(*RUN, *overrides, processes=processes)),
        cwd=run.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: bool(candidates(run.checkpoints)) or process.poll() is not None)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.wait(timeout=60)
    assert read_manifest(candidates(run.checkpoints)[0]).step < STEPS


def figures(run: TinyRun, kind: str) -> list[dict[str, Any]]:
    """What is to be the same in every layout; of a step that was taken twice, the second time."""
    lines = {line["step"]: line for line in run.metrics(kind)}
    names = (
        "step",
        "samples",
        "loss",
        "loss/lm",
        "loss/mtp",
        "grad_norm",
        "evaluate/tiny/loss",
        "evaluate/tiny/tokens",
    )
    return [{name: line[name] for name in names if name in line} for _, line in sorted(lines.items())]


def assert_alike(run: TinyRun, reference: TinyRun) -> None:
    for kind in ("step", "evaluation"):
        here, there = figures(run, kind), figures(reference, kind)
        assert len(here) == len(there) > 0
        for one, other in zip(here, there, strict=True):
            assert one == pytest.approx(other, rel=TOLERANCE)
    ends = [read_manifest(candidates(one.checkpoints)[0]) for one in (run, reference)]
    assert ends[0].step == ends[1].step == STEPS
    assert ends[0].state["data"] == ends[1].state["data"]


@pytest.mark.parametrize(
    ("first", "second", "number"),
    [
        ("pp2", "tp2_dp2", signal.SIGKILL),
        pytest.param("pp2", "alone", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("cp2", "pp2_dp2_ep2", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("pp2_dp2_ep2", "cp2", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("tp2_dp2", "pp2", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_goes_on_in_another_layout(tmp_path: Path, first: str, second: str, number: signal.Signals) -> None:
    reference, run = make_tiny_run(tmp_path / "reference"), make_tiny_run(tmp_path / "run")
    train(reference, "alone")
    end_early(run, first, number)
    train(run, second)
    assert_alike(run, reference)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["1f1b", "interleaved_1f1b", "zbv_zero_bubble", "dualpipe_v"])
@pytest.mark.parametrize("samples", [1, 4, 7])
def test_a_pipeline_evaluates_as_one_process(tmp_path: Path, schedule: str, samples: int) -> None:
    """Whatever the last batch is short of, in schedules that have one stage a rank and more."""
    more = ("training.steps=1", "model.num_hidden_layers=4", f"training.evaluate_samples={samples}")
    runs = [make_tiny_run(tmp_path / name) for name in ("one", "two")]
    pipeline = ("parallelism.pipeline_parallel=2", f"parallelism.pipeline.schedule={schedule}")
    for run, overrides, processes in zip(runs, ((), pipeline), (1, 2), strict=True):
        done = run.train("training.micro_batch_size=1", *more, *overrides, processes=processes)
        assert done.returncode == 0, done.stderr
    (here,), (there,) = (figures(run, "evaluation") for run in runs)
    assert here == pytest.approx(there, rel=TOLERANCE)
