"""Exports and copies in object storage while a run trains: what they hold is what the run held."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from firstlight.checkpoint.step_folder import candidates
from tests.runs import make_tiny_run

EVERY = (
    "checkpoint.export_every_steps=2",
    "checkpoint.save_every_steps=3",
    "training.steps=5",
    "monitor.sinks=[jsonl]",
)


def test_an_export_while_training_is_that_of_the_verb(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    done = run.train(*EVERY)
    assert done.returncode == 0, done.stderr
    exports = run.output / "exports"
    assert sorted(path.name for path in exports.iterdir()) == ["step-00000002", "step-00000004"]
    # Saved for the export, though that is no multiple of three; the last step is no multiple of two.
    assert [path.name for path in candidates(run.checkpoints)] == ["step-00000005", "step-00000004"]
    shutil.rmtree(run.checkpoints / "step-00000005")
    assert run.firstlight("export", "out", "--output", "asked").returncode == 0
    asked, written = tmp_path / "asked", exports / "step-00000004"
    names = sorted(path.name for path in asked.iterdir())
    assert sorted(path.name for path in written.iterdir()) == names
    assert "model.safetensors" in names
    for name in names:
        assert (written / name).read_bytes() == (asked / name).read_bytes()
    first = load_file(exports / "step-00000002" / "model.safetensors")
    last = load_file(written / "model.safetensors")
    assert first.keys() == last.keys()
    assert any(not first[name].equal(last[name]) for name in first)


def test_a_disk_that_refuses_an_export_ends_no_training(tmp_path: Path) -> None:
    """The export of step 4 fails, the last step has none: the run is whole."""
    run = make_tiny_run(tmp_path)
    assert run.train(*EVERY, "checkpoint.export_every_steps=0").returncode == 0
    shutil.rmtree(run.checkpoints / "step-00000005")
    (run.output / "exports").write_text("in the way")
    done = run.train(*EVERY)
    assert done.returncode == 0, done.stderr
    assert f"{run.output}/exports/step-00000004 is not written: " in done.stderr
    assert "training goes on" in done.stderr
    assert candidates(run.checkpoints)[0].name == "step-00000005"


@pytest.mark.parametrize("key", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_lost_folder_goes_on_from_object_storage(tmp_path: Path, key: bool) -> None:
    """Another machine, an empty output folder: the end is that of a run that kept its folder."""
    pytest.importorskip("fsspec")
    run = make_tiny_run(tmp_path)
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    copies = [f"checkpoint.copy_to=file://{tmp_path}/store", "monitor.sinks=[jsonl]"]
    copies += ["checkpoint.key_file=key"] if key else []
    assert run.train(*copies, "training.steps=4").returncode == 0
    whole = json.loads((candidates(run.checkpoints)[0] / "manifest.json").read_text())
    shutil.rmtree(tmp_path / "store" / "step-00000004")
    shutil.rmtree(run.output)
    done = run.train(*copies, "training.steps=4")
    assert done.returncode == 0, done.stderr
    assert "checkpoint of step 2 brought from file://" in done.stderr
    again = json.loads((candidates(run.checkpoints)[0] / "manifest.json").read_text())
    assert (again["step"], again["files"], again["state"]) == (4, whole["files"], whole["state"])
    listed = run.firstlight("checkpoint", "list", "out", "--stored")
    assert [line.split("  ")[0] for line in listed.stdout.splitlines()] == ["step 4", "step 2"]
    verified = run.firstlight("checkpoint", "verify", "out", "--stored", "--json")
    assert verified.returncode == 0, verified.stderr
    assert [one["fault"] for one in json.loads(verified.stdout)] == [None, None]
