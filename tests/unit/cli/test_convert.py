"""`firstlight convert` from a run, from files, and what it says."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from firstlight.base.errors import InputError
from firstlight.checkpoint.disk import LocalDisk
from firstlight.checkpoint.manifest import Manifest
from firstlight.checkpoint.shards import local_shard
from firstlight.checkpoint.step_folder import step_folder
from firstlight.checkpoint.writer import CheckpointWriter
from firstlight.cli.main import app
from firstlight.config.load import load
from firstlight.convert.mindspore_ckpt_reader import MindSporeCkpt
from firstlight.models.family import family_of

CONFIG = """
model:
  family: qwen3
  vocab_size: 40
  hidden_size: 16
  num_hidden_layers: 1
  attention: {kind: gqa, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8, qk_norm: per_head}
  feed_forward: {kind: dense, intermediate_size: 24}
data:
  train: {sources: [{path: text_document}], sequence_length: 16}
  tokenizer: tokenizer.json
optimizer: {type: adamw, learning_rate: 1e-3}
training: {steps: 6, global_batch_size: 4, output_folder: run}
"""


def values(name: str, step: int) -> torch.Tensor:
    shape = family_of(load_model()).shapes(load_model())[name].shape
    return torch.full(shape, float(step)) + torch.arange(shape.numel()).view(shape)


def load_model():
    return load(Path("config.yaml")).config.model


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder with the checkpoints of steps 3 and 6; the working folder has its YAML file."""
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "tokenizer.json").write_text("{}")
    writer = CheckpointWriter(folder / "checkpoints", rank=0, num_ranks=1, disk=LocalDisk())
    for step in (3, 6):
        name = step_folder(step)
        writer.prepare(name, 0)
        tensors = {f"model/{one}": values(one, step) for one in family_of(load_model()).shapes(load_model())}
        writer.write_part(name, {key: local_shard(one, is_first_rank=True) for key, one in tensors.items()})
        writer.publish(name, Manifest(step=step, world_size=1, state={}, configuration={}, files={}, tensors={}))
    return folder


def said(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["convert", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_run_to_mindspore_and_to_hugging_face(run: Path, tmp_path: Path) -> None:
    assert "firstlight to mindspore-ckpt" in said(run, tmp_path / "w.ckpt", "--to", "mindspore-ckpt")
    ckpt = MindSporeCkpt(tmp_path / "w.ckpt")
    assert torch.equal(ckpt.read("output_layer.weight"), values("head.weight", 6))
    said(run, tmp_path / "hub", "--at", 3)
    said(tmp_path / "w.ckpt", tmp_path / "again", "--config", "config.yaml", "--dtype", "bf16")
    said(tmp_path / "w.ckpt", tmp_path / "by_json", "--config", tmp_path / "hub" / "config.json")
    found = load_file(tmp_path / "hub" / "model.safetensors")
    assert torch.equal(found["model.layers.0.self_attn.k_proj.weight"], values("layers.0.attention.k_proj.weight", 3))
    assert (tmp_path / "hub" / "tokenizer.json").read_text() == "{}"
    again, by_json = (load_file(tmp_path / name / "model.safetensors") for name in ("again", "by_json"))
    assert again.keys() == by_json.keys() == found.keys()
    for name, tensor in by_json.items():
        assert torch.equal(again[name], tensor.to(torch.bfloat16))
        assert torch.equal(tensor, found[name] + 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--at", "7"), "has no checkpoint of step 7"),
        (("--at", "1_7"), "1_7 is no step of a run"),
        (("--to", "firstlight"), "firstlight is read, not written"),
        (("--to", "onnx"), "onnx is no format of weights"),
        (("--from", "mindformers-ranks"), "holds no folders rank_0"),
    ],
)
def test_what_cannot_be_done_is_said(run: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        said(run, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()
