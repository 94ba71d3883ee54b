"""`firstlight checkpoint` says what is there, finds what is damaged, and never removes the last good one."""

import json
from pathlib import Path

import pytest

from firstlight.checkpoint.lock import FolderLock
from firstlight.checkpoint.step_folder import candidates
from tests.runs import TINY_YAML
from tests.unit.checkpoint.state import MODEL_FILE, State, checkpointer
from tests.unit.cli.command import ask


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with the checkpoints of three steps."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.yaml").write_text(TINY_YAML)
    one = checkpointer(out / "checkpoints")
    for step in (2, 4, 6):
        one.save(State(step))
    return out


def damage(run: Path, step: int) -> None:
    file = run / "checkpoints" / f"step-{step:08d}" / MODEL_FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_list(run: Path) -> None:
    lines = ask(run.parent, "checkpoint", "list", "out").out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 6", "step 4", "step 2"]
    assert all(line.endswith("1 rank(s)  complete") for line in lines)
    listed = json.loads(ask(run.parent, "checkpoint", "list", "out", "--json").out)
    assert [(one["step"], one["fault"], one["num_tensors"]) for one in listed] == [
        (6, None, 5),
        (4, None, 5),
        (2, None, 5),
    ]


def test_verify_finds_the_damaged_one(run: Path) -> None:
    assert ask(run.parent, "checkpoint", "verify", "out").exit_code == 0
    damage(run, 4)
    answer = ask(run.parent, "checkpoint", "verify", "out")
    assert answer.exit_code == 3
    assert f"step-00000004/{MODEL_FILE} is changed in bytes 0 to " in answer.out
    assert answer.message == "1 of 3 checkpoints cannot be used"
    assert ask(run.parent, "checkpoint", "verify", "out", "--step", "6").exit_code == 0
    assert ask(run.parent, "checkpoint", "verify", "out", "--step", "5").exit_code == 2


def test_inspect(run: Path) -> None:
    out = ask(run.parent, "checkpoint", "inspect", "out", "--step", "2").out
    assert "step 2, written by 1 rank(s)" in out
    assert "model/embedding.weight  F32 [5, 3] in 1 block(s)" in out
    assert json.loads(ask(run.parent, "checkpoint", "inspect", "out", "--json").out)["step"] == 6


def test_diff(run: Path) -> None:
    assert ask(run.parent, "checkpoint", "diff", "out", "4", "4").out == "the same\n"
    found = json.loads(ask(run.parent, "checkpoint", "diff", "out", "2", "4", "--json").out)
    assert {one["name"] for one in found} == set(State(2).tensors())
    first, second = (State(step).live["model/embedding.weight"] for step in (2, 4))
    (weight,) = [one for one in found if one["name"] == "model/embedding.weight"]
    assert weight["largest"] == pytest.approx(float((first.double() - second.double()).abs().max()))


def test_prune_keeps_the_newest_good_one(run: Path) -> None:
    damage(run, 6)
    assert ask(run.parent, "checkpoint", "prune", "out", "--keep-last", "1").out == "step 2 removed\n"
    assert [folder.name for folder in candidates(run / "checkpoints")] == ["step-00000006", "step-00000004"]


def test_prune_leaves_a_training_run_alone(run: Path) -> None:
    with FolderLock(run) as lock:
        lock.acquire()
        assert ask(run.parent, "checkpoint", "prune", "out", "--keep-last", "1").exit_code == 4
    assert len(candidates(run / "checkpoints")) == 3
