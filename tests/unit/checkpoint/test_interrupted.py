"""A save that is interrupted anywhere, or meets a full disk, costs nothing but itself."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.base.errors import FirstlightError
from firstlight.base.peers import PeerFailed
from firstlight.checkpoint.manifest import UnusableCheckpoint, read_manifest
from firstlight.checkpoint.step_folder import candidates
from tests.unit.checkpoint.disk import FailingDisk, Killed, RefusingDisk
from tests.unit.checkpoint.reading import read_tensors
from tests.unit.checkpoint.state import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    State,
    blank,
    checkpointer,
    contents,
    is_state_of,
    save_last,
    saved,
)
from tests.unit.resilience.peers import on_ranks

FULL = OSError(errno.ENOSPC, "No space left on device")
OLD, NEW = 2, 4


def interruptions(
    folder: Path, error: BaseException, before: Path, *, asynchronous: bool = False
) -> Iterator[tuple[Path, FailingDisk]]:
    """A save of step 4 over a copy of `before`, interrupted at each of its operations in turn.

    Yields the folder after each of them, and the disk; ends when a save is through without an interruption.
    """
    for number in range(100):
        copy = folder / str(number) / "checkpoints"
        for path, content in contents(before).items():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).write_bytes(content)
        disk = FailingDisk(error, number)
        try:
            save_last(checkpointer(copy, keep_last=2, asynchronous=asynchronous, disk=disk), State(NEW))
        except (Killed, FirstlightError):
            pass
        else:
            return
        yield copy, disk
    raise AssertionError("a save has more than 100 operations")


def unusable(folder: Path) -> list[str]:
    """The published checkpoints that cannot be loaded."""
    found = []
    for candidate in candidates(folder):
        try:
            read_tensors(candidate, read_manifest(candidate), blank().tensors())
        except UnusableCheckpoint as error:
            found.append(str(error))
    return found


def restored_step(folder: Path) -> int | None:
    """The step that a new process restores, after checking that its state is whole."""
    step = checkpointer(folder).restore(state := blank())
    assert step is not None
    assert is_state_of(state, step)
    return step


def is_published(folder: Path) -> bool:
    return (folder / f"step-{NEW:08d}").exists()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_save_killed_anywhere_leaves_the_old_or_the_new_state(tmp_path: Path, asynchronous: bool) -> None:
    before = saved(tmp_path / "before", OLD)
    steps = []
    for folder, disk in interruptions(tmp_path, Killed(), before, asynchronous=asynchronous):
        assert unusable(folder) == [], disk.done
        steps.append(restored_step(folder))
        assert steps[-1] == (NEW if is_published(folder) else OLD), disk.done
    assert set(steps) == {OLD, NEW}
    assert steps == sorted(steps)


def test_a_save_is_interrupted_at_each_of_its_operations(tmp_path: Path) -> None:
    before = saved(tmp_path / "before", OLD)
    done = [disk.done[-1] for _, disk in interruptions(tmp_path, Killed(), before)]
    tensors = len([name for name in State(NEW).tensors() if name.startswith("model/")])
    moments = len(State(NEW).tensors()) - tensors
    assert done == [
        "mkdir checkpoints",
        "mkdir .staging-step-00000004",
        *[f"write {MODEL_FILE}"] * (1 + tensors),
        f"fsync {MODEL_FILE}",
        *[f"write {OPTIMIZER_FILE}"] * (1 + moments),
        f"fsync {OPTIMIZER_FILE}",
        "write part-00000.json",
        "fsync part-00000.json",
        "remove part-00000.json",
        "write manifest.json",
        "fsync manifest.json",
        "fsync .staging-step-00000004",
        "rename .staging-step-00000004",
        "fsync checkpoints",
        "write latest.partial",
        "fsync latest.partial",
        "rename latest.partial",
        "fsync checkpoints",
    ]


def test_the_save_after_an_interrupted_one_sweeps_and_publishes(tmp_path: Path) -> None:
    before = saved(tmp_path / "before", OLD)
    for folder, disk in interruptions(tmp_path, Killed(), before):
        checkpointer(folder).save(State(6))
        assert restored_step(folder) == 6, disk.done
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".") or path.suffix], disk.done


def test_replacing_a_refused_checkpoint_killed_anywhere_leaves_a_good_one(tmp_path: Path) -> None:
    before = saved(tmp_path / "before", OLD, NEW)
    (before / f"step-{NEW:08d}" / MODEL_FILE).write_bytes(b"damaged")
    steps = []
    for folder, disk in interruptions(tmp_path, Killed(), before):
        steps.append(restored_step(folder))
        assert all(f"{MODEL_FILE} has 7 bytes" in fault for fault in unusable(folder)), disk.done
    assert set(steps) == {OLD, NEW}
    assert steps == sorted(steps)


def test_a_kill_while_old_ones_are_removed_leaves_the_kept_ones(tmp_path: Path) -> None:
    before = saved(tmp_path / "before", 1, OLD)
    last = None
    for folder, disk in interruptions(tmp_path, Killed(), before):
        assert restored_step(folder) == (NEW if is_published(folder) else OLD)
        last = disk.done[-1]
    assert last == "remove .replaced-step-00000001"


def test_a_kill_while_old_ones_are_removed_leaves_no_half_one(tmp_path: Path) -> None:
    before = saved(tmp_path / "before", 1, OLD)
    for folder, disk in interruptions(tmp_path, Killed(), before):
        assert unusable(folder) == [], disk.done


def test_a_full_disk_is_one_error_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    before = saved(tmp_path / "before", OLD)
    old = contents(before / f"step-{OLD:08d}")
    count = 0
    for folder, disk in interruptions(tmp_path, FULL, before):
        count += 1
        assert unusable(folder) == [], disk.done
        assert contents(folder / f"step-{OLD:08d}") == old
        checkpointer(folder).save(State(NEW))
        assert restored_step(folder) == NEW
    assert count > 10


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    with pytest.raises(FirstlightError) as caught:
        save_last(checkpointer(tmp_path, disk=RefusingDisk(FULL, MODEL_FILE)), State(NEW))
    assert caught.value.exit_code == 1
    num_bytes = sum(tensor.nbytes for tensor in State(NEW).tensors().values())
    staging = tmp_path / ".staging-step-00000004"
    assert str(caught.value) == (
        f"the last state is not saved: checkpoint not written in {staging}: [Errno 28] No space left on device; "
        f"{num_bytes} bytes needed, 12,345 bytes free"
    )


def test_a_disk_that_cannot_remove_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 1, OLD)
    last = len(operations(tmp_path / "other"))
    disk = FailingDisk(OSError(errno.EIO, "I/O error"), last + 1)
    save_last(checkpointer(tmp_path, keep_last=2, disk=disk), State(NEW))
    assert disk.done[-2:] == ["rename step-00000001", "remove .replaced-step-00000001"]
    assert any("step-00000001 cannot be removed" in said and "I/O error" in said for said in caplog.messages)
    assert restored_step(tmp_path) == NEW


def operations(folder: Path) -> list[str]:
    """The operations of a save where nothing is in the way."""
    disk = FailingDisk(Killed())
    save_last(checkpointer(folder, disk=disk), State(NEW))
    return disk.done


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("failing", ["manifest.json", "part-00001.json"])
def test_when_one_rank_cannot_write_nothing_is_published(tmp_path: Path, failing: str, asynchronous: bool) -> None:
    saved(tmp_path, OLD)
    disk = RefusingDisk(FULL, failing)
    answers = on_ranks(
        2,
        lambda peers: save_last(checkpointer(tmp_path, peers=peers, asynchronous=asynchronous, disk=disk), State(NEW)),
    )
    assert {type(answer) for answer in answers} == {FirstlightError, PeerFailed}
    (own,) = [answer for answer in answers if not isinstance(answer, PeerFailed)]
    assert "the last state is not saved: checkpoint not written in" in str(own)
    assert "No space left on device" in str(own)
    assert [candidate.name for candidate in candidates(tmp_path)] == [f"step-{OLD:08d}"]
