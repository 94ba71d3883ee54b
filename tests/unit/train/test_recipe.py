"""A run with Muon and with everything scheduled that can be: continued in the middle it is the same to the bit."""

import shutil
from pathlib import Path

import pytest

from firstlight.checkpoint.checkpointer import candidates
from firstlight.checkpoint.manifest import read_manifest
from firstlight.train.loop import Outcome
from tests.runs import TinyRun, make_tiny_run
from tests.unit.train.tiny import train_here

OFF_AFTER_TWO = "{value: %s, schedule: {type: piecewise, pieces: [{steps: {tokens: 256}, ratio: 1}], final_ratio: 0}}"
"""Two steps of 128 tokens."""
RECIPE = (
    "optimizer={type: muon, learning_rate: 1e-3, splits_heads: true}",
    f"optimizer.weight_decay={OFF_AFTER_TWO % 0.5}",
    f"model.multi_token_prediction.loss_weight={OFF_AFTER_TWO % 0.5}",
    "model.feed_forward.router.sequence_balance_loss=0",
    f"model.feed_forward.router.bias_update_rate={OFF_AFTER_TWO % 0.01}",
    "lr_scheduler={type: warm_restarts, first_cycle_steps: 1, cycle_factor: 2, final_ratio: 0.5}",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Four steps, with checkpoints after two and four. Tests copy it before they change it."""
    run = make_tiny_run(tmp_path_factory.mktemp("recipe") / "run")
    assert train_here(run, *RECIPE) == Outcome(first_step=0, step=4, reason="all steps are done")
    return run


def test_scheduled_numbers_are_those_of_each_step(finished: TinyRun) -> None:
    steps = finished.metrics("step")
    assert [line["learning_rate"] for line in steps] == pytest.approx([1e-3, 1e-3, 7.5e-4, 1e-3])
    weights = [(line["loss"] - line["loss/lm"]) / line["loss/mtp"] for line in steps]
    assert weights == pytest.approx([0.5, 0.5, 0.0, 0.0], abs=1e-6)


def test_the_run_goes_on_from_its_middle_to_the_same_weights_and_moments(finished: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "run")
    run = TinyRun(folder=tmp_path / "run")
    whole = read_manifest(candidates(finished.checkpoints)[0])
    assert any(name.startswith("optimizer/momentum/") for name in whole.tensors)
    shutil.rmtree(candidates(run.checkpoints)[0])
    assert train_here(run, *RECIPE) == Outcome(first_step=2, step=4, reason="all steps are done")
    assert read_manifest(candidates(run.checkpoints)[0]).files == whole.files
