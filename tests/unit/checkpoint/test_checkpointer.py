"""What was saved comes back to the bit; the newest good one is used; nothing good is overwritten."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors import safe_open

from firstlight.base.errors import NoCheckpointError
from firstlight.checkpoint import reader
from firstlight.checkpoint.checkpointer import Checkpointer, load_newest
from firstlight.checkpoint.manifest import Manifest, UnusableCheckpoint, read_manifest
from firstlight.checkpoint.reader import ReadPlan
from firstlight.checkpoint.shards import LocalShard
from firstlight.checkpoint.step_folder import candidates, step_of
from firstlight.config.training import CheckpointConfig
from tests.unit.checkpoint.state import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    State,
    blank,
    checkpointer,
    contents,
    is_state_of,
    same_bits,
    saved,
)
from tests.unit.resilience.peers import ToldPeers, on_ranks


def names(folder: Path) -> list[str]:
    return [candidate.name for candidate in candidates(folder)]


def test_a_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    checkpointer(saved(tmp_path, 2, 4)).restore(state := blank())
    assert is_state_of(state, 4)
    assert not is_state_of(blank(), 4)


def test_restore_tells_the_step(tmp_path: Path) -> None:
    assert checkpointer(tmp_path).restore(blank()) is None
    assert checkpointer(tmp_path / "none").restore(blank()) is None
    assert checkpointer(saved(tmp_path, 2, 4)).restore(blank()) == 4


def test_restoring_leaves_the_live_tensors_in_place(tmp_path: Path) -> None:
    state = blank()
    tensors = dict(state.tensors())
    checkpointer(saved(tmp_path, 2)).restore(state)
    assert all(state.tensors()[name] is tensor for name, tensor in tensors.items())


def test_files_are_plain_safetensors_under_plain_names(tmp_path: Path) -> None:
    folder = candidates(saved(tmp_path, 2))[0]
    assert sorted(contents(folder)) == ["manifest.json", MODEL_FILE, OPTIMIZER_FILE]
    for file, kind in ((MODEL_FILE, "model/"), (OPTIMIZER_FILE, "optimizer/")):
        expected = {name.removeprefix(kind): t for name, t in State(2).tensors().items() if name.startswith(kind)}
        with safe_open(folder / file, framework="pt") as opened:
            assert set(opened.keys()) == set(expected)
            assert all(same_bits(opened.get_tensor(name), tensor) for name, tensor in expected.items())


def test_the_manifest_is_plain_json_that_tells_what_is_there(tmp_path: Path) -> None:
    folder = candidates(saved(tmp_path, 2))[0]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["step"], manifest["world_size"]) == (2, 1)
    assert manifest["configuration"] == {"model": {"width": 3}}
    assert manifest["state"] == State(2).values
    assert manifest["files"][MODEL_FILE]["num_bytes"] == (folder / MODEL_FILE).stat().st_size
    experts = manifest["tensors"]["model/layers.0.experts"]
    assert experts["dtype"] == "BF16"
    assert experts["shape"] == [2, 3, 3]
    assert experts["shards"] == [{"file": MODEL_FILE, "offset": [0, 0, 0], "shape": [2, 3, 3]}]


def test_latest_names_the_newest(tmp_path: Path) -> None:
    assert (saved(tmp_path, 2, 4) / "latest").read_text() == "step-00000004\n"


def test_due_every_so_many_steps(tmp_path: Path) -> None:
    assert [step for step in range(7) if checkpointer(tmp_path).due(step)] == [0, 2, 4, 6]
    never = Checkpointer(tmp_path, CheckpointConfig(save_every_steps=0), ToldPeers(others_say=True), configuration={})
    assert not any(never.due(step) for step in range(7))


@pytest.mark.parametrize(("keep_last", "kept"), [(1, ["step-00000008"]), (2, ["step-00000008", "step-00000006"])])
def test_the_last_few_are_kept(tmp_path: Path, keep_last: int, kept: list[str]) -> None:
    assert names(saved(tmp_path, 2, 4, 6, 8, keep_last=keep_last)) == kept


def test_what_was_saved_before_the_last_comparison_of_replicas_stays(tmp_path: Path) -> None:
    one = checkpointer(tmp_path, keep_last=1)
    left = []
    for step, right_until in ((2, 3), (4, None), (6, None), (8, 8), (10, None)):
        one.save(State(step))
        one.finish()
        left.append([step_of(folder) for folder in candidates(tmp_path)])
        if right_until is not None:
            one.trust(right_until)
    assert left == [[2], [4, 2], [6, 2], [8, 2], [10, 8]]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    assert names(saved(tmp_path, 2, 99_999_998, 10)) == ["step-99999998", "step-00000010", "step-00000002"]


@pytest.mark.parametrize(
    "name", [".staging-step-00000008", ".replaced-step-00000008", "step-8", "other", "step-0000000x"]
)
def test_other_folders_are_no_candidates(tmp_path: Path, name: str) -> None:
    shutil.copytree(candidates(saved(tmp_path, 2))[0], tmp_path / name)
    assert names(tmp_path) == ["step-00000002"]


def test_leftovers_are_swept_by_the_next_save(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    for name in (".staging-step-00000003", ".replaced-step-00000002"):
        shutil.copytree(tmp_path / "step-00000002", tmp_path / name)
    (tmp_path / "latest.partial").write_text("step-000")
    saved(tmp_path, 4)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000002", "step-00000004", "latest"}


def test_nothing_is_written_for_the_step_that_was_just_saved(tmp_path: Path) -> None:
    one = checkpointer(tmp_path)
    one.save(State(2))
    (tmp_path / "step-00000002" / "mine").write_text("stays")
    one.save(State(2))
    assert (tmp_path / "step-00000002" / "mine").exists()


def test_nothing_is_written_for_the_step_that_was_restored(tmp_path: Path) -> None:
    one = checkpointer(saved(tmp_path, 2))
    one.restore(state := blank())
    (tmp_path / "step-00000002" / "mine").write_text("stays")
    one.save(state)
    assert (tmp_path / "step-00000002" / "mine").exists()


def test_a_checkpoint_that_was_refused_is_replaced_by_that_step(tmp_path: Path) -> None:
    file = saved(tmp_path, 2, 4) / "step-00000004" / MODEL_FILE
    file.write_bytes(file.read_bytes()[:-1])
    one = checkpointer(tmp_path)
    assert one.restore(blank()) == 2
    one.save(State(4))
    assert checkpointer(tmp_path).restore(state := blank()) == 4
    assert is_state_of(state, 4)
    assert {path.name for path in tmp_path.iterdir()} >= {"step-00000002", "step-00000004", "latest"}


def test_a_refused_checkpoint_does_not_count_as_kept(tmp_path: Path) -> None:
    file = saved(tmp_path, 2, 6) / "step-00000006" / MODEL_FILE
    file.write_bytes(b"damaged")
    one = checkpointer(tmp_path, keep_last=1)
    one.restore(blank())
    one.save(State(4))
    assert checkpointer(tmp_path).restore(state := blank()) == 4
    assert is_state_of(state, 4)


def test_a_checkpoint_is_used_only_when_all_ranks_can_load_it(tmp_path: Path) -> None:
    saved(tmp_path, 2, 4)
    with pytest.raises(NoCheckpointError, match="none of the 2 checkpoints"):
        checkpointer(tmp_path, peers=ToldPeers(others_say=False)).restore(blank())


def test_all_ranks_restore_the_same_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 2, 4)
    states = [blank(), blank()]

    def plan_but_on_rank_1(folder: Path, manifest: Manifest, shards: Mapping[str, LocalShard]) -> ReadPlan:
        live = states[1].tensors()["model/scale"].data_ptr()
        if folder.name == "step-00000004" and shards["model/scale"].data.data_ptr() == live:
            raise UnusableCheckpoint("this rank's disk is gone")
        return ReadPlan(folder, manifest, shards)

    monkeypatch.setattr(reader, "ReadPlan", plan_but_on_rank_1)
    answers = on_ranks(2, lambda peers: checkpointer(tmp_path, peers=peers).restore(states[peers.rank]))
    assert answers == [2, 2]
    assert all(is_state_of(state, 2) for state in states)


def test_ranks_write_together_and_each_byte_once(tmp_path: Path) -> None:
    answers = on_ranks(2, lambda peers: checkpointer(tmp_path, peers=peers).save(State(2)))
    assert answers == [None, None]
    folder = candidates(tmp_path)[0]
    manifest = read_manifest(folder)
    assert manifest.world_size == 2
    assert set(contents(folder)) == {"manifest.json", *manifest.files}
    assert all(len(record.shards) == 1 for record in manifest.tensors.values())
    assert checkpointer(tmp_path).restore(state := blank()) == 2
    assert is_state_of(state, 2)


def test_the_tensors_alone_can_be_loaded(tmp_path: Path) -> None:
    saved(tmp_path, 2, 4)
    model = {name: tensor for name, tensor in blank().tensors().items() if name.startswith("model/")}
    (tmp_path / "step-00000004" / OPTIMIZER_FILE).write_bytes(b"not needed")
    manifest = load_newest(tmp_path, model)
    assert manifest.step == 4
    assert all(same_bits(tensor, State(4).tensors()[name]) for name, tensor in model.items())


def test_without_checkpoints_there_is_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(NoCheckpointError, match=r"no checkpoint in .* is there; train first"):
        load_newest(tmp_path, blank().tensors())
