"""The monitor section from the YAML file to the run's folder."""

import gzip
import json
from pathlib import Path

import pytest

from firstlight.observe.events import read_events
from tests.runs import make_tiny_run

pytestmark = pytest.mark.slow


def test_a_run_tells_what_it_was_asked_for(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    done = run.train(
        "monitor.console=mindformers",
        "monitor.alerts=[{when: loss > 1}, {when: evaluate/tiny/loss > 100}]",
        "monitor.profile={first_step: 2, num_steps: 2}",
        "monitor.measure=[]",
    )
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("{ Epoch:[  1/  1], step:[")]
    assert len(steps) == 4
    records = run.metrics("step")
    assert [f"loss: {record['loss']:.6f}, lm_loss" in line for record, line in zip(records, steps, strict=True)]
    found = [(event.kind, event.step) for event in read_events(run.output / "events.jsonl")]
    assert sorted(found) == sorted(
        [
            ("start", 0),
            ("alert", 1),
            ("checkpoint", 2),
            ("profile", 3),
            ("checkpoint", 4),
            ("evaluation", 4),
            ("stop", 4),
        ]
    )
    with gzip.open(run.output / "profile" / "rank-0.json.gz", "rt") as file:
        spans = [event["name"] for event in json.load(file)["traceEvents"] if "firstlight: " in event.get("name", "")]
    assert spans.count("firstlight: forward_backward") == 2
    assert "alert after step 1: loss > 1" in done.stderr
    assert "firstlight: forward_backward" in done.stderr
    assert run.metrics("ranks") == []
    assert records[-1]["expert_load/layers.1/entropy"] <= 1


def test_a_run_that_fails_says_so_among_its_events(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    assert run.train().returncode == 0
    manifest = next(run.checkpoints.glob("step-*4/manifest.json"))
    for folder in run.checkpoints.glob("step-*"):
        (folder / "manifest.json").write_bytes(manifest.read_bytes()[:50])
    assert run.train("training.steps=4").returncode == 3
    (fault,) = [event for event in read_events(run.output / "events.jsonl") if event.kind == "fault"]
    assert "NoCheckpointError" in fault.text
