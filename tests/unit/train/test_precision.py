"""The switches of a training section that change how, but not what, is computed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.runs import TinyRun, make_tiny_run
from tests.unit.train.tiny import train_here

STEPS = 12


def losses(folder: Path, *overrides: str) -> list[float]:
    run: TinyRun = make_tiny_run(folder)
    train_here(run, f"training.steps={STEPS}", *overrides)
    return [line["loss"] for line in run.metrics("step")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(tmp_path_factory.mktemp("plain"))


def test_bf16_follows_fp32(plain: list[float], tmp_path: Path):
    rounded = losses(tmp_path, "training.precision=bf16")
    assert rounded[-1] < rounded[0]
    assert rounded == pytest.approx(plain, rel=0.01)
    assert rounded != plain


def test_deterministic_changes_nothing_on_cpu(plain: list[float], tmp_path: Path):
    assert losses(tmp_path, "training.deterministic=true") == plain


def test_two_deterministic_runs_end_with_the_same_bits(tmp_path: Path):
    ends = []
    for name in ("first", "second"):
        run = make_tiny_run(tmp_path / name)
        train_here(run, "training.deterministic=true", "training.steps=4")
        assert torch.are_deterministic_algorithms_enabled()
        files = sorted(next(run.checkpoints.glob("*4")).glob("*.safetensors"))
        ends.append({f"{file.name}/{key}": tensor for file in files for key, tensor in load_file(file).items()})
    first, second = ends
    assert len(first) > 50
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_recomputation_changes_nothing(plain: list[float], tmp_path: Path):
    assert losses(tmp_path, "recompute.kind=full") == plain


def test_masking_after_the_end_of_a_document_changes_the_loss(plain: list[float], tmp_path: Path):
    masked = losses(tmp_path, "data.train.mask_after_end_of_document=true")
    assert masked != plain
    assert masked == pytest.approx(plain, rel=0.05)


def test_documents_that_stand_for_themselves_change_the_loss(plain: list[float], tmp_path: Path):
    apart = losses(tmp_path, "data.train.documents=separate")
    assert apart != plain
    assert apart == pytest.approx(plain, rel=0.05)
