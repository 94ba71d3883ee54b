"""One run in a folder: the second is told of the first, a dead one's lock taken over, a fenced-off writer mute."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from firstlight.base.errors import FolderInUseError, InputError
from firstlight.base.peers import Alone
from firstlight.checkpoint.checkpointer import Checkpointer, Role
from firstlight.checkpoint.lock import FolderLock
from firstlight.checkpoint.step_folder import candidates
from firstlight.config.training import CheckpointConfig
from tests.unit.checkpoint.state import State
from tests.unit.resilience.peers import on_ranks


def held(folder: Path) -> FolderLock:
    lock = FolderLock(folder)
    lock.acquire()
    return lock


def lock_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("lock-"))


def rewrite(folder: Path, age: float = 0.0, **changes: object) -> None:
    """Make the only lock that of somebody else, last touched `age` seconds ago."""
    (path,) = folder.glob("lock-*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    os.utime(path, (time.time() - age,) * 2)


def test_the_second_is_told_of_the_first(tmp_path: Path) -> None:
    with held(tmp_path):
        holder = json.loads((tmp_path / "lock-00000001.json").read_text())
        with pytest.raises(FolderInUseError) as caught:
            held(tmp_path)
        assert caught.value.exit_code == 4
        for fact in (holder["host"], f"pid {os.getpid()}", f"started {holder['started']}", "lock-00000001.json"):
            assert fact in str(caught.value)
        assert lock_files(tmp_path) == ["lock-00000001.json"]
    assert lock_files(tmp_path) == []
    held(tmp_path).release()


def test_of_many_at_once_one_holds(tmp_path: Path) -> None:
    def attempt(_number: int) -> FolderLock | None:
        try:
            return held(tmp_path)
        except FolderInUseError:
            return None

    for _ in range(10):
        with ThreadPoolExecutor(8) as pool:
            holding = [lock for lock in pool.map(attempt, range(8)) if lock]
        assert len(holding) <= 1
        for lock in holding:
            assert lock.is_held()
            lock.release()
        assert lock_files(tmp_path) == []


def test_a_killed_process_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = "import os, sys, pathlib; from firstlight.checkpoint.lock import FolderLock; "
    program += "FolderLock(pathlib.Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    assert lock_files(tmp_path) == ["lock-00000001.json"]
    with held(tmp_path) as lock:
        assert lock_files(tmp_path) == ["lock-00000002.json"]
        assert lock.is_held()
    assert "process that is gone; taken over" in caplog.text


def test_a_pid_that_is_another_process_now_is_taken_over(tmp_path: Path) -> None:
    held(tmp_path)
    rewrite(tmp_path, process_start="1")
    assert held(tmp_path).is_held()


@pytest.mark.parametrize(("age", "is_taken"), [(60, False), (121, True)])
def test_another_host_is_judged_by_its_heartbeat(tmp_path: Path, age: float, is_taken: bool) -> None:
    held(tmp_path)
    rewrite(tmp_path, age, host="far", place="another machine")
    if is_taken:
        assert held(tmp_path).is_held()
    else:
        with pytest.raises(FolderInUseError, match="host far, .* last sign of life 6\\d s ago"):
            held(tmp_path)


def test_the_heart_beats(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, heartbeat_seconds=0.02)
    with lock:
        lock.acquire()
        os.utime(tmp_path / "lock-00000001.json", (1.0, 1.0))
        for _ in range(500):
            if (tmp_path / "lock-00000001.json").stat().st_mtime > 1.0:
                return
            time.sleep(0.01)
    raise AssertionError("no heartbeat")


def test_a_damaged_lock_is_not_taken_over_while_it_is_fresh(tmp_path: Path) -> None:
    (tmp_path / "lock-00000001.json").write_text("{")
    with pytest.raises(FolderInUseError, match="an unreadable lock"):
        held(tmp_path)


def test_a_folder_that_cannot_be_made_is_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        held(tmp_path / "file")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_fenced_off_writer_cannot_publish(tmp_path: Path, asynchronous: bool) -> None:
    first = held(tmp_path)
    config = CheckpointConfig(asynchronous=asynchronous)
    writes = Checkpointer(
        tmp_path / "checkpoints",
        config,
        Alone(),
        configuration={},
        role=Role(writes_whole_tensors=True, is_ours=first.is_held),
    )
    writes.save(State(2))
    writes.finish()
    rewrite(tmp_path, 500, place="taken for dead")
    with held(tmp_path) as second:
        assert second.is_held()
        assert not first.is_held()
        with pytest.raises(FolderInUseError, match="step-00000004 is not written: another process has taken over"):
            writes.save(State(4))
        first.release()
        assert second.is_held()
    assert [folder.name for folder in candidates(tmp_path / "checkpoints")] == ["step-00000002"]


def test_fenced_off_between_writing_and_publishing_all_ranks_end(tmp_path: Path) -> None:
    answers = iter([True, False])

    def save(peers: Alone) -> None:
        config = CheckpointConfig(asynchronous=False)
        role = Role(writes_whole_tensors=peers.rank == 0, is_ours=lambda: next(answers))
        Checkpointer(tmp_path, config, peers, configuration={}, role=role).save(State(4))

    ended = on_ranks(2, save)
    assert [getattr(error, "exit_code", None) for error in ended] == [4, 4]
    assert candidates(tmp_path) == []


def test_a_rank_of_an_earlier_round_is_fenced_off_at_once(tmp_path: Path) -> None:
    """Its machine is cut off and lives: nothing but the round tells that it has no say any more."""
    old = FolderLock(tmp_path, job="j", round=3)
    old.acquire()
    rewrite(tmp_path, place="another machine")
    with pytest.raises(FolderInUseError):
        FolderLock(tmp_path, job="another", round=4).acquire()
    with pytest.raises(FolderInUseError):
        FolderLock(tmp_path, job="j", round=3).acquire()
    with FolderLock(tmp_path, job="j", round=4) as new:
        new.acquire()
        assert new.is_held()
        assert not old.is_held()
        with pytest.raises(FolderInUseError):
            FolderLock(tmp_path, job="j", round=3).acquire()
    old.release()
