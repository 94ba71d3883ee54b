"""Snapshots in memory: restored before what is on the disk, and copied there when nobody goes on."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.checkpoint import memory
from firstlight.checkpoint.memory import SHARED_MEMORY, rescue, snapshot_folder
from firstlight.checkpoint.step_folder import candidates
from tests.unit.checkpoint.state import MODEL_FILE, blank, checkpointer, is_state_of, saved

pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="this machine has no /dev/shm")


@pytest.fixture
def snapshots(tmp_path: Path) -> Iterator[Path]:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    folder = snapshot_folder(f"test-{tmp_path.name}", run_folder)
    yield folder
    shutil.rmtree(folder)


def test_the_newest_of_memory_and_disk_is_restored(tmp_path: Path, snapshots: Path) -> None:
    saved(tmp_path / "disk", 2, 4)
    saved(snapshots, 5, 6)
    one = checkpointer(tmp_path / "disk")
    one.look_first_in(snapshots)
    assert one.restore(state := blank()) == 6
    assert is_state_of(state, 6)
    one.finish()
    assert candidates(tmp_path / "disk")[0].name == "step-00000006", "what memory alone had is made durable"


def test_a_damaged_snapshot_is_passed_over(tmp_path: Path, snapshots: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path / "disk", 4)
    saved(snapshots, 6)
    file = snapshots / "step-00000006" / MODEL_FILE
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    one = checkpointer(tmp_path / "disk")
    one.look_first_in(snapshots)
    assert one.restore(state := blank()) == 4
    assert is_state_of(state, 4)
    assert str(file) in caplog.text


def test_the_newest_sound_snapshot_is_rescued(
    tmp_path: Path, snapshots: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    saved(disk, 2)
    saved(snapshots, 5, 6)
    (snapshots / "step-00000006" / MODEL_FILE).write_bytes(b"")
    assert rescue(snapshots, disk, None) == disk / "step-00000005"
    assert "snapshot passed over" in caplog.text
    assert checkpointer(disk).restore(state := blank()) == 5
    assert is_state_of(state, 5)


def test_what_the_disk_has_is_not_rescued(tmp_path: Path, snapshots: Path) -> None:
    saved(tmp_path / "disk", 6)
    saved(snapshots, 6)
    assert rescue(snapshots, tmp_path / "disk", None) is None


def test_snapshots_of_deleted_runs_are_removed(tmp_path: Path) -> None:
    run_folder = tmp_path / "deleted"
    run_folder.mkdir()
    old = snapshot_folder(f"test-old-{tmp_path.name}", run_folder)
    run_folder.rmdir()
    mine = snapshot_folder(f"test-new-{tmp_path.name}", tmp_path)
    assert not old.exists()
    assert mine.stat().st_mode & 0o077 == 0, "for this user alone"
    shutil.rmtree(mine)


def test_a_machine_without_such_memory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SHARED_MEMORY", tmp_path / "none")
    with pytest.raises(InputError, match="resilience.snapshot_every_steps needs"):
        snapshot_folder("x", tmp_path)
