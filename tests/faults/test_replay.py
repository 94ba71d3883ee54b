"""Ranks that compute rows twice, in layouts: no false alarm, no trace in the weights, and the right rank is named."""

import re
from pathlib import Path

import pytest

from firstlight.checkpoint.step_folder import candidates
from tests.runs import TinyRun, make_tiny_run

DETERMINISTIC = "training.deterministic=true"
REPLAYED = (DETERMINISTIC, "resilience.replay_every_steps=2", "resilience.max_restarts=0")
LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "shards": (2, ()),
    "optimizer alone is sharded": (2, ("parallelism.sharded=optimizer",)),
    "bf16 parameters": (2, ("training.precision={kind: bf16, parameters: bf16}",)),
    "replicas of tensor groups": (
        4,
        ("parallelism.data_parallel_replicate=2", "parallelism.tensor_parallel=2"),
    ),
    "pipeline, data": (4, ("parallelism.pipeline_parallel=2",)),
    "experts": (4, ("parallelism.data_parallel_replicate=2", "parallelism.expert_parallel=2")),
    "context": (2, ("parallelism.context_parallel=2",)),
}


def weights(run: TinyRun) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in candidates(run.checkpoints)[0].glob("*.safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    processes, overrides = LAYOUTS[layout]
    plain, run = make_tiny_run(tmp_path / "plain"), make_tiny_run(tmp_path / "run")
    micro = "training.micro_batch_size=1"
    assert plain.train(DETERMINISTIC, micro, *overrides, processes=processes).returncode == 0
    fault = f"resilience.inject=[{{kind: miscompute, rank: {processes - 1}, step: 2}}]"
    done = run.train(*REPLAYED, micro, *overrides, fault, processes=processes)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("computed") == 1, "the planted fault alone, and nothing in step 4"
    # The last stage of a pipeline begins with the layer of multi-token prediction.
    assert re.search(rf"step 2: rank\(s\) {processes - 1} computed what (layers|mtp)\.", done.stderr)
    assert "once otherwise than twice more" in done.stderr
    assert weights(run) == weights(plain)


@pytest.mark.slow
def test_a_lasting_fault_ends_the_run(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    fault = "resilience.inject=[{kind: keep_miscomputing, rank: 1, step: 2}]"
    done = run.train(*REPLAYED, "training.micro_batch_size=1", fault, processes=2)
    assert done.returncode == 1
    assert "rank(s) 1 computed what layers.0 gives each of three times otherwise" in done.stderr
