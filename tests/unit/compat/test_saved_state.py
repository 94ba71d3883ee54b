"""What MindFormers files say about saving and about weights to begin with."""

from pathlib import Path

import pytest

from firstlight.compat.loaded_path import foreign_weights
from firstlight.compat.old_file import read_old_file
from tests.unit.compat.old_yaml import CORE, LEGACY, PYNATIVE, changed, faults, translated
from tests.unit.compat.test_sections import section


def test_saving(tmp_path: Path) -> None:
    assert section(tmp_path, "checkpoint", LEGACY) == {
        "save_every_steps": 50,
        "keep_last": 2,
        "asynchronous": False,
        "mindformers_files": {"prefix": "CKP", "steps_per_epoch": 1},
    }
    assert section(tmp_path, "checkpoint", CORE) == {"save_every_steps": 0}
    text = PYNATIVE + "checkpoint: {save_path: out, save_max: 3, save_interleaved_steps: 20, async_save: True}\n"
    assert section(tmp_path, "checkpoint", text, 8) == {"save_every_steps": 20, "keep_last": 3, "asynchronous": True}
    assert section(tmp_path, "training", text, 8)["output_folder"] == "out"


def test_weights_to_begin_with_are_a_hugging_face_folder(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    text = CORE + f"load_checkpoint: {folder}\n"
    assert "make one with `firstlight convert`" in faults(tmp_path, text)[0]
    (folder / "config.json").write_text("{}")
    assert translated(tmp_path, text).values["model"]["from_hf"] == str(folder)


@pytest.mark.parametrize(
    ("sinks", "steps"),
    [("", 1), (", sink_size: 2", 2), (", sink_size: -1", 16), (", sink_mode: False", 16), (", sink_mode: True", 1)],
)
def test_names_of_files_count_epochs_as_mindspore_does(tmp_path: Path, sinks: str, steps: int) -> None:
    text = changed(
        LEGACY, "runner_config: {epochs: 2, batch_size: 3}", f"runner_config: {{epochs: 2, batch_size: 3{sinks}}}"
    )
    assert section(tmp_path, "checkpoint", text)["mindformers_files"]["steps_per_epoch"] == steps


def test_a_run_that_names_its_own_checkpoints_goes_on_from_them(tmp_path: Path) -> None:
    for folder in ("./output/checkpoint", "output/checkpoint/rank_0"):
        translation = translated(tmp_path, CORE + f"load_checkpoint: {folder}\nresume_training: True\n")
        assert "from_hf" not in translation.values["model"]
        assert any("goes on from its own folder by itself" in note for note in translation.notes)
    assert faults(tmp_path, CORE + "load_checkpoint: ./other/checkpoint\n")


def test_layouts_of_tensors_are_those_of_the_file(tmp_path: Path) -> None:
    keys = (
        "model_config:\n    use_contiguous_weight_layout_attention: True\n    use_interleaved_weight_layout_mlp: False"
    )
    text = changed(LEGACY, "model_config:", keys)
    files = section(tmp_path, "checkpoint", text)["mindformers_files"]
    assert (files["qkv"], files["gate_up"]) == ("joined", "joined")
    assert translated(tmp_path, text).layouts == {"qkv": "joined", "gate_up": "joined"}
    assert translated(tmp_path, LEGACY).layouts == {}


def test_weights_that_are_to_be_converted_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("weights.ckpt", "hub/config.json", "output/checkpoint/rank_0/a.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    old = tmp_path / "old.yaml"
    for value, found in {
        "weights.ckpt": ("load_checkpoint", Path("weights.ckpt")),
        "hub": None,
        "output/checkpoint": None,
        "none.ckpt": None,
        "''": None,
    }.items():
        old.write_text(CORE + f"load_checkpoint: {value}\n")
        assert foreign_weights(read_old_file(old)) == found
    old.write_text(PYNATIVE + "checkpoint: {load_path: weights.ckpt}\n")
    assert foreign_weights(read_old_file(old)) == ("checkpoint.load_path", Path("weights.ckpt"))
