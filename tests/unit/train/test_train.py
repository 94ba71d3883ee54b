"""A run from text to checkpoint in this process: continued where it left off, and left alone when it is done."""

import json
import shutil
from pathlib import Path

import pytest

from firstlight.base.errors import InputError, NoCheckpointError
from firstlight.base.world import World
from firstlight.checkpoint.manifest import read_manifest
from firstlight.checkpoint.step_folder import candidates
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.resilience.guard import Guard
from firstlight.resilience.verdict import Proceed, Stop, Verdict
from firstlight.train.generate import generate
from firstlight.train.loop import Outcome
from firstlight.train.sampling import Sampling
from firstlight.train.train import train
from firstlight.train.trained import evaluate_trained, load_trained
from tests.runs import TinyRun, make_tiny_run
from tests.unit.checkpoint.state import contents
from tests.unit.train.tiny import config_of, times_of, train_here

FIGURES = ("step", "samples", "tokens", "loss", "loss/lm", "loss/mtp", "loss/balance", "grad_norm", "learning_rate")
"""What the same steps must say again, to the bit."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run of four steps with checkpoints after two and four. Tests copy it before they change it."""
    run = make_tiny_run(tmp_path_factory.mktemp("finished") / "run")
    assert train_here(run) == Outcome(first_step=0, step=4, reason="all steps are done")
    return run


@pytest.fixture
def copy(finished: TinyRun, tmp_path: Path) -> TinyRun:
    """The same run in a folder of its own, to change."""
    shutil.copytree(finished.folder, tmp_path / "run")
    return TinyRun(folder=tmp_path / "run")


def figures(run: TinyRun) -> list[dict[str, float]]:
    return [{name: line[name] for name in FIGURES} for line in run.metrics("step")]


def test_a_run_leaves_what_it_is_documented_to_leave(finished: TinyRun) -> None:
    assert {path.name for path in finished.output.iterdir()} == {
        "config.yaml",
        "identity",
        "tokenizer.json",
        "run.json",
        "metrics.jsonl",
        "events.jsonl",
        "checkpoints",
    }
    assert [folder.name for folder in candidates(finished.checkpoints)] == ["step-00000004", "step-00000002"]
    assert [line["step"] for line in finished.metrics("step")] == [1, 2, 3, 4]
    assert [line["step"] for line in finished.metrics("evaluation")] == [4]
    losses = [line["loss/lm"] for line in finished.metrics("step")]
    assert losses[-1] < losses[0]
    facts = json.loads((finished.output / "run.json").read_text())
    assert set(facts) >= {"parameters", "device", "layout", "git", "versions"}
    manifest = read_manifest(finished.checkpoints / "step-00000004")
    assert facts["data"]["fingerprint"] == manifest.state["data"]["fingerprint"]


def test_a_finished_run_is_left_alone(finished: TinyRun) -> None:
    before = contents(finished.output)
    times = times_of(finished.checkpoints)
    assert train_here(finished) == Outcome(first_step=4, step=4, reason="all steps are done")
    assert times_of(finished.checkpoints) == times
    assert contents(finished.output) == before


def test_a_run_killed_after_its_checkpoint_says_each_step_once_and_the_same(copy: TinyRun) -> None:
    before, saved = figures(copy), read_manifest(copy.checkpoints / "step-00000004")
    shutil.rmtree(copy.checkpoints / "step-00000004")
    assert train_here(copy).first_step == 2
    assert figures(copy) == before
    assert [line["step"] for line in copy.metrics("evaluation")] == [4]
    again = read_manifest(copy.checkpoints / "step-00000004")
    assert (again.state, again.files) == (saved.state, saved.files), "the digests are those of every weight and moment"


def test_a_run_killed_within_a_line_goes_on(copy: TinyRun) -> None:
    shutil.rmtree(copy.checkpoints / "step-00000004")
    metrics = copy.output / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])
    train_here(copy)
    assert [line["step"] for line in copy.metrics("step")] == [1, 2, 3, 4]
    assert [line["step"] for line in copy.metrics("evaluation")] == [4]


def test_a_run_without_checkpoints_starts_over(copy: TinyRun) -> None:
    before = figures(copy)
    shutil.rmtree(copy.checkpoints)
    assert train_here(copy) == Outcome(first_step=0, step=4, reason="all steps are done")
    assert figures(copy) == before


def test_a_run_never_starts_over_from_damaged_checkpoints(copy: TinyRun) -> None:
    for folder in candidates(copy.checkpoints):
        (folder / "manifest.json").write_text("{")
    with pytest.raises(NoCheckpointError, match="none of the 2 checkpoints"):
        train_here(copy)
    with pytest.raises(NoCheckpointError):
        load_trained(copy.output)


def test_a_run_stopped_on_the_way_is_saved_and_goes_on(
    copy: TinyRun, finished: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy.output)
    stop_at(monkeypatch, 3)
    assert train_here(copy) == Outcome(first_step=0, step=3, reason="asked to", exit_code=75)
    assert candidates(copy.checkpoints)[0].name == "step-00000003"
    assert copy.metrics("evaluation") == []
    monkeypatch.undo()
    assert train_here(copy) == Outcome(first_step=3, step=4, reason="all steps are done")
    assert figures(copy) == figures(finished)


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_stopped_where_an_evaluation_is_due_has_it_in_the_end(
    copy: TinyRun, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    shutil.rmtree(copy.output)
    stop_at(monkeypatch, step)
    train_here(copy, "training.evaluate_every_steps=2")
    monkeypatch.undo()
    train_here(copy, "training.evaluate_every_steps=2")
    assert [line["step"] for line in copy.metrics("evaluation")] == [2, 4]


def test_an_evaluation_that_was_made_up_for_is_written_once(copy: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copy.output)
    stop_at(monkeypatch, 4)
    train_here(copy)
    monkeypatch.undo()
    train_here(copy)
    assert train_here(copy).step == 4
    assert [line["step"] for line in copy.metrics("evaluation")] == [4]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have the guard stop the run after `step` steps."""

    def judge(_guard: Guard, report: object) -> Verdict:
        is_there = report.step == step  # type: ignore[attr-defined]
        return Stop(reason="asked to", exit_code=75) if is_there else Proceed()

    monkeypatch.setattr(Guard, "judge", judge)


def test_changed_data_is_refused(copy: TinyRun) -> None:
    (copy.folder / "corpus.jsonl").write_text(json.dumps({"text": "something else " * 400}))
    prepare(
        PrepareRequest(
            inputs=(copy.folder / "corpus.jsonl",),
            tokenizer=copy.folder / "tokenizer.json",
            output_prefix=copy.folder / "data" / "tiny",
            held_out_fraction=0,
        )
    )
    with pytest.raises(InputError, match=r"the training data has changed since the checkpoint at step 4: .*; restore"):
        train_here(copy)
    # Accepted, the run goes on, and what was decided stays in its folder.
    accepted = train(config_of(copy), World(), ["data"])
    assert (accepted.first_step, accepted.step) == (4, 4)
    (line,) = map(json.loads, (copy.output / "accepted-changes.jsonl").read_text().splitlines())
    assert line["name"] == "data"
    assert line["there"] != line["here"]


def test_the_loss_of_a_checkpoint_is_that_of_the_run(finished: TinyRun) -> None:
    (report,) = evaluate_trained(load_trained(finished.output), max_samples=8)
    (line,) = finished.metrics("evaluation")
    assert report.loss == pytest.approx(line["evaluate/tiny/loss"], rel=1e-6)
    assert (report.step, report.tokens) == (4, line["evaluate/tiny/tokens"])


def test_held_out_documents_stand_for_themselves_if_they_did_in_the_run(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path / "run")
    train_here(run, "data.train.documents=separate")
    (report,) = evaluate_trained(load_trained(run.output), max_samples=8)
    (line,) = run.metrics("evaluation")
    assert report.loss == pytest.approx(line["evaluate/tiny/loss"], rel=1e-6)
    assert report.tokens == line["evaluate/tiny/tokens"] < 8 * 32


def test_all_held_out_samples_are_evaluated_without_a_limit(finished: TinyRun) -> None:
    run = load_trained(finished.output)
    (few,), (every,) = evaluate_trained(run, max_samples=8), evaluate_trained(run, max_samples=None)
    assert few.tokens == 8 * 32
    assert every.tokens > 4 * few.tokens


def test_a_trained_model_writes_the_same_for_a_seed(finished: TinyRun) -> None:
    texts = [
        generate(load_trained(finished.output), "1: ", Sampling(max_new_tokens=12, seed=seed)) for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_loss_that_is_not_finite_stops_the_run_with_its_state_saved(copy: TinyRun) -> None:
    shutil.rmtree(copy.output)
    outcome = train_here(copy, "optimizer.learning_rate=1e30", "resilience.on_not_finite=stop")
    assert outcome.exit_code == 1
    assert "not applied (resilience.on_not_finite = stop)" in outcome.reason
    assert candidates(copy.checkpoints)[0].name == f"step-{outcome.step:08d}"
    last = copy.metrics("step")[-1]
    assert (last["step"], last["grad_norm"], last["skipped_steps"]) == (outcome.step, None, 1)


def test_steps_that_are_not_finite_are_skipped_up_to_the_limit(copy: TinyRun) -> None:
    shutil.rmtree(copy.output)
    overrides = ("optimizer.learning_rate=1e30", "resilience.max_skipped_steps=2", "training.steps=9")
    outcome = train_here(copy, *overrides)
    assert outcome.exit_code == 1
    assert "2 times in a row (resilience.max_skipped_steps)" in outcome.reason
    assert train_here(copy, *overrides).step == outcome.step + 1, "the count is a part of the state"
