"""A run with all of the recipe's guards: metrics, its average over a restart, evaluated and exported."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from firstlight.base.errors import InputError
from firstlight.train.state import model_tensors
from firstlight.train.trained import evaluate_trained, load_trained
from tests.runs import TinyRun, make_tiny_run
from tests.unit.train.tiny import train_here

pytestmark = pytest.mark.slow

RECIPE = (
    "optimizer={type: muon, learning_rate: 1e-3, qk_clip: {threshold: 1e-6}, skip_above: {after_steps: 2, ratio: 50}}",
    "averages={ema: {decay: 0.5}, pma: {interval_steps: 2, count: 2}}",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = make_tiny_run(tmp_path_factory.mktemp("recipe"))
    train_here(run, *RECIPE, "training.steps=4")
    return run


def test_a_stopped_run_ends_with_the_same_tensors(trained: TinyRun, tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path / "stopped")
    train_here(run, *RECIPE, "training.steps=4", "resilience.on_not_finite=stop", "checkpoint.save_every_steps=1")
    step_4 = next(run.checkpoints.glob("*4"))
    for folder in run.checkpoints.iterdir():
        if folder.name.endswith(("3", "4")):
            (tmp_path / folder.name).parent.mkdir(exist_ok=True)
            folder.rename(tmp_path / folder.name)
    train_here(run, *RECIPE, "training.steps=4")
    files = {path.name for path in step_4.glob("*.safetensors")}
    assert any("ema" in name for name in files)
    assert any("pma" in name for name in files)
    for name in files:
        here, there = load_file(step_4 / name), load_file(next(trained.checkpoints.glob("*4")) / name)
        assert here.keys() == there.keys()
        assert all(torch.equal(here[key], tensor) for key, tensor in there.items()), name


def test_logits_and_limits_are_metrics(trained: TinyRun) -> None:
    lines = trained.metrics("step")
    first, *others = (line["attention_logits/max"] for line in lines)
    assert first > 0.02 > 10 * max(others)
    assert [("grad_norm_limit" in line) for line in lines] == [False, False, True, True]


def test_the_average_is_evaluated_and_exported(trained: TinyRun) -> None:
    losses = []
    for weights in ("model", "ema"):
        loaded = load_trained(trained.output, "ema" if weights == "ema" else "model")
        (report,) = evaluate_trained(loaded, max_samples=4)
        losses.append(report.loss)
        result = trained.firstlight("export", "out", "--output", weights, "--weights", weights)
        assert result.returncode == 0, result.stderr
    assert losses[0] != losses[1]
    name = "model.embed_tokens.weight"
    exported = {kind: load_file(trained.folder / kind / "model.safetensors")[name] for kind in ("model", "ema")}
    average = model_tensors(load_trained(trained.output, "ema").model)["model/embedding.weight"]
    assert torch.equal(exported["ema"], average)
    assert not torch.equal(exported["model"], average)
    result = trained.firstlight("evaluate", "out", "--weights", "ema", "--samples", "4")
    assert result.returncode == 0, result.stderr
    figures = json.loads((trained.output / "evaluation.json").read_text())
    assert figures["evaluate/tiny/loss"] == pytest.approx(losses[1])


def test_a_run_without_an_average_says_so(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    train_here(run, "training.steps=1")
    with pytest.raises(InputError, match=r"averages\.ema is null"):
        load_trained(run.output, "ema")
