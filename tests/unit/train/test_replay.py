"""Rows that are computed twice: what differs is named, a passing fault is told, a lasting one ends the run."""

from pathlib import Path

import pytest

from firstlight.checkpoint.step_folder import candidates
from firstlight.observe.events import read_events
from tests.runs import TinyRun, make_tiny_run
from tests.unit.train.tiny import train_here

REPLAYED = ("resilience.replay_every_steps=2", "training.deterministic=true")


def weights(run: TinyRun) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in candidates(run.checkpoints)[0].glob("*.safetensors")}


@pytest.mark.parametrize("overrides", [(), ("recompute={kind: full}", "optimizer.qk_clip={threshold: 0.01}")])
def test_a_replay_leaves_no_trace(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    run, plain = make_tiny_run(tmp_path / "run"), make_tiny_run(tmp_path / "plain")
    assert train_here(run, *REPLAYED, *overrides).exit_code == 0
    assert train_here(plain, "training.deterministic=true", *overrides).exit_code == 0
    assert weights(run) == weights(plain)
    assert not [event for event in read_events(run.output / "events.jsonl") if event.kind == "fault"], "no false alarm"


def test_a_passing_fault_is_told_and_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, plain = make_tiny_run(tmp_path / "run"), make_tiny_run(tmp_path / "plain")
    assert train_here(run, *REPLAYED, "resilience.inject=[{kind: miscompute, step: 2}]").exit_code == 0
    assert train_here(plain, "training.deterministic=true").exit_code == 0
    what = "rank(s) 0 computed what layers.0 gives once otherwise than twice more, from the same rows and weights"
    assert f"step 2: {what}; the step itself begins anew" in caplog.text
    (event,) = (event for event in read_events(run.output / "events.jsonl") if event.kind == "fault")
    assert (event.text, event.facts) == (what, {"action": "go on"})
    assert weights(run) == weights(plain)


def test_a_lasting_fault_ends_the_run(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    outcome = train_here(run, *REPLAYED, "resilience.inject=[{kind: keep_miscomputing, step: 2}]")
    assert (outcome.exit_code, outcome.step) == (1, 2)
    assert outcome.reason == (
        "step 2: rank(s) 0 computed what layers.0 gives each of three times otherwise, from the same rows and weights; "
        "what was saved after step 0 may be wrong"
    )
    assert not candidates(run.checkpoints), "the state is not to be trusted"
