"""Runs of several ranks that go back to an earlier checkpoint: all of them, past the same samples, in any layout."""

import json
import shutil
from pathlib import Path

import pytest

from firstlight.checkpoint.memory import SHARED_MEMORY
from firstlight.checkpoint.step_folder import candidates
from tests.runs import TinyRun, make_tiny_run

STEPS = 11
RUN = (
    f"training.steps={STEPS}",
    "training.micro_batch_size=1",
    "checkpoint.save_every_steps=2",
    "checkpoint.keep_last=1",
    "resilience.max_skipped_steps=3",
)
LAYOUTS = {
    "two shards": (2, ()),
    "replicas of shards": (4, ("parallelism.data_parallel_replicate=2",)),
    "tensor, data": (4, ("parallelism.tensor_parallel=2", "parallelism.data_parallel_shard=2")),
    "pipeline, data": (4, ("parallelism.pipeline_parallel=2", "parallelism.data_parallel_shard=2")),
    "pipeline, tensor": (4, ("parallelism.pipeline_parallel=2", "parallelism.tensor_parallel=2")),
    "optimizer alone is sharded": (2, ("parallelism.sharded=optimizer",)),
    "bf16 parameters": (2, ("training.precision={kind: bf16, parameters: bf16}",)),
}


def injected(kind: str, rank: int, *steps: int) -> str:
    return ", ".join(f"{{kind: {kind}, rank: {rank}, step: {step}}}" for step in steps)


def train(folder: Path, *overrides: str, processes: int) -> tuple[TinyRun, str]:
    run = make_tiny_run(folder)
    done = run.train(*RUN, *overrides, processes=processes)
    assert done.returncode == 0, done.stderr
    return run, done.stderr


def last_tensors(run: TinyRun) -> dict[str, bytes]:
    newest = candidates(run.checkpoints)[0]
    assert newest.name == f"step-{STEPS:08d}"
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


def same_samples(rewound: TinyRun, folder: Path, *overrides: str, processes: int) -> TinyRun:
    """A run without faults that leaves out what `rewound` does, from its first step on."""
    run = make_tiny_run(folder)
    run.output.mkdir()
    shutil.copy(rewound.output / "avoided-samples.jsonl", run.output)
    done = run.train(*RUN, *overrides, processes=processes)
    assert done.returncode == 0, done.stderr
    return run


def ledger(run: TinyRun, event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run.output / "faults.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_ranks_go_back_alike(tmp_path: Path, layout: str) -> None:
    processes, overrides = LAYOUTS[layout]
    bad = f"resilience.inject=[{injected('not_finite', processes - 1, 6, 7, 8)}]"
    run, said = train(tmp_path / "run", *overrides, bad, processes=processes)
    assert "rewound from step 8 to step 4; samples 20 to 31 are left out from here on" in said
    assert "effective training time" in said
    assert [line["to_step"] for line in ledger(run, "rewind")] == [4]
    clean = same_samples(run, tmp_path / "clean", *overrides, processes=processes)
    assert last_tensors(clean) == last_tensors(run)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="this machine has no /dev/shm")
def test_back_to_a_snapshot_and_on_after_a_kill(tmp_path: Path) -> None:
    """The snapshot of step 5 is kept though two are kept of later steps; a restart then leaves out the same."""
    faults = (
        f"resilience.inject=[{injected('not_finite', 0, 6, 7, 8)}, {injected('kill', 1, 7)}, {injected('kill', 0, 10)}]"
    )
    memory = "resilience.snapshot_every_steps=1"
    run, said = train(tmp_path / "run", faults, memory, "checkpoint.save_every_steps=100", processes=2)
    assert "rewound from step 8 to step 5; samples 20 to 31 are left out from here on" in said
    assert "step 10 was under way; the ranks start again" in said
    assert [line["action"] for line in ledger(run, "fault")] == ["restart", "restart"]
    clean = same_samples(run, tmp_path / "clean", memory, processes=2)
    assert last_tensors(clean) == last_tensors(run)


KILL_LATER = injected("kill", 0, 10)
