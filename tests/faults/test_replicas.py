"""Ranks that hold the same weights are compared: a flipped bit is found, named, and gone back from, in any layout."""

from pathlib import Path

import pytest

from tests.faults.test_rewind import last_tensors, ledger, train
from tests.runs import make_tiny_run

CHECKED = ("resilience.check_replicas_every_steps=3", "resilience.max_skipped_steps=10")
REPLICAS = "parallelism.data_parallel_replicate=2"
LAYOUTS = {
    "two replicas": (2, (REPLICAS,)),
    "replicas of shards": (4, (REPLICAS, "parallelism.data_parallel_shard=2")),
    "replicas of tensor groups": (4, (REPLICAS, "parallelism.tensor_parallel=2")),
    "replicas of pipelines": (4, (REPLICAS, "parallelism.pipeline_parallel=2")),
    "replicas of experts": (4, (REPLICAS, "parallelism.data_parallel_shard=2", "parallelism.expert_parallel=2")),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_flipped_bit_is_found_and_gone_back_from(tmp_path: Path, layout: str) -> None:
    processes, overrides = LAYOUTS[layout]
    clean, said = train(tmp_path / "clean", *overrides, *CHECKED, processes=processes)
    assert "hold" not in said, "no false alarm"
    flip = f"resilience.inject=[{{kind: flip_bit, rank: {processes - 1}, step: 5}}]"
    run, said = train(tmp_path / "run", *overrides, *CHECKED, flip, processes=processes)
    assert "step 6: ranks " in said
    assert "hold different values of model/" in said
    assert [line["to_step"] for line in ledger(run, "rewind")] == [2]
    assert last_tensors(run) == last_tensors(clean)


@pytest.mark.slow
def test_of_three_replicas_the_wrong_one_is_named(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    done = run.train(
        "parallelism.data_parallel_replicate=3",
        "training.micro_batch_size=1",
        "training.global_batch_size=3",
        "resilience.check_replicas_every_steps=2",
        "resilience.on_corruption=stop",
        "resilience.inject=[{kind: flip_bit, rank: 1, step: 2}]",
        processes=3,
    )
    assert done.returncode == 1
    assert "rank(s) 1 hold values of model/embedding.weight that are not those of 2 others" in done.stderr
    assert "what was saved after step 0 may be wrong" in done.stderr
    assert not (run.checkpoints / "latest").exists()
