"""A model class of the user's own trains in every layout alike, and is part of the run's record."""

import json
import shutil
from pathlib import Path

import pytest

from tests.runs import TINY_YAML, TinyRun, make_tiny_run
from tests.unit.models.test_registered import EXAMPLE

pytestmark = pytest.mark.slow

LLAMA = """\
model:
  family: llama
  vocab_size: 300
  hidden_size: 32
  num_hidden_layers: 4
  max_position_embeddings: 32
  attention: {kind: gqa, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8}
  feed_forward: {kind: dense, intermediate_size: 64}
"""
OWN = ("--register-path", "own")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    made = make_tiny_run(tmp_path_factory.mktemp("own"))
    yaml = LLAMA + TINY_YAML[TINY_YAML.index("data:") :]
    (made.folder / "run.yaml").write_text(yaml.replace("learning_rate: 1e-3", "learning_rate: 3e-2"))
    shutil.copytree(EXAMPLE, made.folder / "own", ignore=shutil.ignore_patterns("__pycache__"))
    return made


def losses(run: TinyRun, name: str, *words: str) -> list[float]:
    """Of a run into the folder of this name."""
    done = run.firstlight("train", "run.yaml", "--set", f"training.output_folder={name}", *words)
    assert done.returncode == 0, done.stderr
    lines = (run.folder / name / "metrics.jsonl").read_text().splitlines()
    return [one["loss"] for one in map(json.loads, lines) if one["kind"] == "step"]


def test_every_layout_trains_it_alike(run: TinyRun) -> None:
    alone = losses(run, "alone", *OWN)
    plain = losses(run, "plain")
    assert len(alone) == 4
    assert alone[0] == pytest.approx(plain[0], rel=1e-6)  # gains are one at first
    assert abs(alone[-1] - plain[-1]) > 1e-4
    two = ("--nproc-per-node", "2")
    for axis in ("tensor_parallel", "pipeline_parallel", "data_parallel_shard"):
        degrees = ["--set", f"parallelism.{axis}=2"]
        together = losses(run, axis, *OWN, *two, *degrees)
        assert together == pytest.approx(alone, rel=1e-5), axis


def test_its_code_is_part_of_the_run(run: TinyRun) -> None:
    losses(run, "kept", *OWN)
    facts = json.loads((run.folder / "kept" / "run.json").read_text())["registered_model"]
    assert (facts["class"], len(facts["sha256"])) == ("WeighedDecoder", 64)
    evaluated = run.firstlight("evaluate", "kept", *OWN)
    assert evaluated.returncode == 0, evaluated.stderr
    for words in (["evaluate", "kept"], ["generate", "kept"], ["export", "kept", "--output", "hub"]):
        refused = run.firstlight(*words)
        assert refused.returncode == 2, words
        assert f"model class of the user's own (sha256 {facts['sha256']})" in refused.stderr
    refused = run.firstlight("convert", "kept", "hub")
    assert (refused.returncode, "model class of the user's own" in refused.stderr) == (2, True)
    again = ["train", "run.yaml", "--set", "training.output_folder=kept"]
    for words in ([], _changed(run.folder)):
        refused = run.firstlight(*again, *words)
        assert refused.returncode == 2
        assert f"registered_model: '{facts['sha256'][:16]}' there" in refused.stderr
    accepted = run.firstlight(*again, *_changed(run.folder), "--accept-change", "registered_model")
    assert accepted.returncode == 0, accepted.stderr


def _changed(folder: Path) -> list[str]:
    """Flags with which other code is registered."""
    if not (folder / "changed").exists():
        shutil.copytree(folder / "own", folder / "changed")
        (folder / "changed" / "gain.py").open("a").write("\n# changed\n")
    return ["--register-path", "changed"]


def test_code_that_is_not_named_is_not_run(run: TinyRun) -> None:
    """Not even where the run, its folder or its configuration lies beside it."""
    trap = run.folder / "firstlight_model.py"
    trap.write_text('raise SystemExit("this ran")\n')
    losses(run, "untouched")
    named = run.firstlight("train", "run.yaml", "--register-path", ".")
    assert "this ran" in named.stderr
