"""A checkpoint of one layout goes on in the same and in another one."""

import shutil
from pathlib import Path

import pytest

from firstlight.checkpoint.checkpointer import candidates
from firstlight.checkpoint.manifest import read_manifest
from tests.runs import TinyRun, make_tiny_run

LAYOUTS = {
    "tensors over 2": (2, ("parallelism.tensor_parallel=2",)),
    "experts over 2": (2, ("parallelism.expert_parallel=2",)),
    "alone": (1, ()),
}
STEPS = 4


def train(run: TinyRun, layout: str) -> None:
    processes, overrides = LAYOUTS[layout]
    done = run.train(*overrides, processes=processes)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "second", ["experts over 2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tensors over 2", "alone"))]
)
def test_goes_on_from_a_checkpoint_of_an_expert_parallel_run(tmp_path: Path, second: str) -> None:
    run = make_tiny_run(tmp_path)
    train(run, "experts over 2")
    newest, before = candidates(run.checkpoints)
    undisturbed = read_manifest(newest)
    assert (undisturbed.step, read_manifest(before).step) == (STEPS, 2)
    shards = undisturbed.tensors["model/layers.1.feed_forward.experts.gate_proj"].shards
    assert sorted(shard.offset[0] for shard in shards) == [0, 2]
    first = [line for line in run.metrics("step") if line["step"] > 2]
    shutil.rmtree(newest)
    train(run, second)
    again = read_manifest(candidates(run.checkpoints)[0])
    assert again.step == STEPS
    repeated = [line for line in run.metrics("step") if line["step"] > 2]
    for there, here in zip(first, repeated, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-6)
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-6)
    if second == "experts over 2":
        assert again.files == undisturbed.files


@pytest.mark.slow
@pytest.mark.parametrize("second", ["experts over 2", "alone"])
def test_experts_that_are_cut_over_neighbours_go_on_in_other_layouts(tmp_path: Path, second: str) -> None:
    """Over 2 x 2 ranks with 2 experts each, of which each has half of the width."""
    run = make_tiny_run(tmp_path)
    cut = ("parallelism.expert_parallel=2", "parallelism.expert_tensor_parallel=2", "training.micro_batch_size=1")
    done = run.train(*cut, processes=4)
    assert done.returncode == 0, done.stderr
    newest = candidates(run.checkpoints)[0]
    tensors = read_manifest(newest).tensors
    for name, width_dim in (("gate_proj", 1), ("up_proj", 1), ("down_proj", 2)):
        shards = tensors[f"model/layers.1.feed_forward.experts.{name}"].shards
        assert sorted((one.offset[0], one.offset[width_dim]) for one in shards) == [(0, 0), (0, 8), (2, 0), (2, 8)]
    first = [line for line in run.metrics("step") if line["step"] > 2]
    shutil.rmtree(newest)
    train(run, second)
    repeated = [line for line in run.metrics("step") if line["step"] > 2]
    assert len(first) == len(repeated) == 2
    for there, here in zip(first, repeated, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-6)
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-6)


@pytest.mark.slow
def test_experts_that_are_cut_along_their_rows_go_on_in_one_process(tmp_path: Path) -> None:
    """Two experts over four ranks: no rank has a whole one."""
    few = (
        "model.feed_forward.n_routed_experts=2",
        "model.feed_forward.router.num_experts_per_tok=1",
        "training.micro_batch_size=1",
    )
    run = make_tiny_run(tmp_path)
    done = run.train(*few, processes=4)
    assert done.returncode == 0, done.stderr
    newest = candidates(run.checkpoints)[0]
    shards = read_manifest(newest).tensors["model/layers.1.feed_forward.experts.gate_proj"].shards
    assert sorted(shard.offset[1] for shard in shards) == [0, 4, 8, 12]
    first = [line for line in run.metrics("step") if line["step"] > 2]
    shutil.rmtree(newest)
    done = run.train(*few)
    assert done.returncode == 0, done.stderr
    repeated = [line for line in run.metrics("step") if line["step"] > 2]
    assert len(first) == len(repeated) == 2
    for there, here in zip(first, repeated, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-6)
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-6)
