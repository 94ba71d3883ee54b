"""The switches of a training section that change how, but not what, is computed."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.runs import TinyRun, make_tiny_run
from tests.unit.train.tiny import train_here

pytestmark = pytest.mark.slow

STEPS = 8


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


OTHERS = ("fp16", "{kind: fp8, parameters: bf16, scales: power_of_two}")
MORE = ("{kind: bf16, parameters: bf16}", "fp8")


@pytest.mark.parametrize("precision", [*OTHERS, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE)])
def test_other_kinds_follow_fp32_and_go_on_to_the_bit(plain: list[float], precision: str, tmp_path: Path):
    run, changes = make_tiny_run(tmp_path), (f"training.precision={precision}", f"training.steps={STEPS}")
    train_here(run, *changes, "checkpoint.save_every_steps=5")
    found = [line["loss"] for line in run.metrics("step")]
    assert found == pytest.approx(plain, rel=0.01)
    assert found != plain
    last = run.checkpoints / f"step-{STEPS:08}"
    straight = saved(last)
    assert {tensor.dtype for tensor in straight.values()} == {torch.float32}
    shutil.rmtree(last)
    assert train_here(run, *changes).first_step == 5
    again = saved(last)
    assert again.keys() == straight.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in straight.items())
    assert [line["loss"] for line in run.metrics("step")] == found


def saved(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_overflowing_steps_lower_the_scale_and_a_restart_knows_it(tmp_path: Path):
    run = make_tiny_run(tmp_path)
    kind = "training.precision={kind: fp16, initial_scale: 1.0e+12, backoff_factor: 0.0009765625, growth_steps: 3}"
    train_here(run, kind, "training.steps=8", "checkpoint.save_every_steps=5")
    steps = run.metrics("step")
    scales = [line["loss_scale"] for line in steps]
    is_skipped = [line["grad_norm"] is None for line in steps]
    assert is_skipped[0]
    assert not all(is_skipped)
    scale, good = 1e12, 0
    for found, skipped in zip(scales, is_skipped, strict=True):
        assert found == scale
        good = 0 if skipped else good + 1
        scale *= 2.0**-10 if skipped else 1.0
        if good == 3:
            scale, good = 2 * scale, 0
    shutil.rmtree(run.checkpoints / "step-00000008")
    assert train_here(run, kind, "training.steps=8").first_step == 5
    assert [line["loss_scale"] for line in run.metrics("step")] == scales


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
