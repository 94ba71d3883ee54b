"""Saving beside the training: one whole step in each checkpoint, one save at a time, no error lost."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from firstlight.base.errors import FirstlightError
from firstlight.base.peers import Alone
from firstlight.checkpoint import snapshot
from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.checkpoint.disk import LocalDisk
from firstlight.checkpoint.snapshot import HostBuffers, written_shards
from firstlight.checkpoint.step_folder import candidates
from firstlight.config.training import CheckpointConfig
from tests.unit.checkpoint.disk import RefusingDisk, SlowDisk
from tests.unit.checkpoint.state import State, blank, checkpointer, is_state_of, same_bits, save_last
from tests.unit.resilience.peers import on_ranks

FULL = OSError(errno.ENOSPC, "No space left on device")


def address(content: memoryview) -> int:
    return np.frombuffer(content, np.uint8).ctypes.data


def names(folder: Path) -> list[str]:
    return [candidate.name for candidate in candidates(folder)]


def mutated(state: State) -> State:
    """The same tensors, trained on in place."""
    for tensor in state.live.values():
        tensor.fill_(7)
    state.values["step"] = state.step = state.step + 1
    return state


def test_a_save_holds_one_step_though_training_goes_on(tmp_path: Path) -> None:
    disk = SlowDisk()
    one = checkpointer(tmp_path, asynchronous=True, disk=disk)
    one.save(state := State(2))
    assert names(tmp_path) == []
    mutated(state)
    disk.go.set()
    one.finish()
    assert checkpointer(tmp_path).restore(restored := blank()) == 2
    assert is_state_of(restored, 2)


def test_saves_one_after_the_other_reuse_memory_and_never_mix(tmp_path: Path) -> None:
    one = checkpointer(tmp_path, keep_last=50, asynchronous=True)
    live = State(1)
    for step in range(1, 21):
        source = State(step)
        live.step, live.values = step, source.values
        for name, tensor in live.live.items():
            tensor.copy_(source.live[name])
        one.save(live)
        one.due(step)
    one.finish()
    assert len(names(tmp_path)) == 20
    for step in range(20, 0, -1):
        assert checkpointer(tmp_path).restore(restored := blank()) == step
        assert is_state_of(restored, step)
        (tmp_path / f"step-{step:08d}").rename(tmp_path / f"done-{step}")


def test_the_second_save_waits_for_the_first(tmp_path: Path) -> None:
    disk = SlowDisk()
    one = checkpointer(tmp_path, asynchronous=True, disk=disk)
    one.save(State(2))
    threading.Timer(0.2, disk.go.set).start()
    one.save(State(4))
    assert names(tmp_path) == ["step-00000002"]
    assert sum(thread.name == "checkpoint" for thread in threading.enumerate()) <= 1, "never two saves at once"
    one.finish()
    assert names(tmp_path) == ["step-00000004", "step-00000002"]


def test_it_is_published_while_training_goes_on(tmp_path: Path) -> None:
    one = checkpointer(tmp_path, asynchronous=True)
    one.save(State(2))
    for _ in range(2000):
        assert not one.due(3)
        if names(tmp_path):
            return
        threading.Event().wait(0.005)
    raise AssertionError("never published")


def test_a_failed_save_is_said_once_and_the_next_one_tries_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = RefusingDisk(FULL)
    one = checkpointer(tmp_path, asynchronous=True, disk=disk)
    one.save(State(2))
    while not caplog.messages:
        one.due(3)
    (said,) = caplog.messages
    assert str(tmp_path) in said
    assert "No space left on device" in said
    assert "training goes on, and the next save tries again" in said
    assert list(tmp_path.iterdir()) == []
    disk.error = None
    save_last(one, State(4))
    assert names(tmp_path) == ["step-00000004"]
    assert len(caplog.messages) == 1


def test_the_same_step_is_tried_again_at_the_end(tmp_path: Path) -> None:
    disk = RefusingDisk(FULL)
    one = checkpointer(tmp_path, disk=disk)
    one.save(State(2))
    disk.error = None
    save_last(one, State(2))
    assert names(tmp_path) == ["step-00000002"]


def test_a_last_save_that_fails_ends_the_run(tmp_path: Path) -> None:
    one = checkpointer(tmp_path, asynchronous=True, disk=RefusingDisk(FULL))
    with pytest.raises(FirstlightError, match="the last state is not saved: .*No space left"):
        save_last(one, State(2))


def test_a_fault_in_the_thread_is_raised(tmp_path: Path) -> None:
    disk = SlowDisk(ZeroDivisionError("a mistake"))
    disk.go.set()
    one = checkpointer(tmp_path, asynchronous=True, disk=disk)
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        save_last(one, State(2))


def test_a_folder_that_cannot_be_made_is_a_failed_save(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    checkpointer(tmp_path / "file").save(State(2))
    assert "checkpoint not written in" in caplog.messages[0]


def test_ranks_agree_though_they_write_at_different_speeds(tmp_path: Path) -> None:
    def train(peers: Any) -> None:
        one = checkpointer(tmp_path, keep_last=9, peers=peers, asynchronous=True)
        for step in range(1, 13):
            threading.Event().wait(0.003 * peers.rank)
            if one.due(step):
                one.save(State(step))
        one.finish()

    assert on_ranks(3, train) == [None] * 3
    assert len(names(tmp_path)) == 6
    assert checkpointer(tmp_path).restore(state := blank()) == 12
    assert is_state_of(state, 12)


def unhealthy(step: int) -> State:
    state = State(step)
    state.live["model/scale"].fill_(float("nan"))
    return state


def test_weights_that_are_not_finite_are_noticed_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = checkpointer(tmp_path, keep_last=1)
    for state in (State(2), unhealthy(4), unhealthy(6)):
        one.save(state)
    assert names(tmp_path) == ["step-00000006", "step-00000002"], "the last healthy one stays"
    assert f"{tmp_path / 'step-00000006'} is unhealthy: values that are not finite in model/scale" in caplog.messages
    assert checkpointer(tmp_path).restore(state := blank()) == 2
    assert is_state_of(state, 2)
    one.save(State(8))
    assert names(tmp_path) == ["step-00000008"]


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_healthy_one_of_an_earlier_process_is_verified_before_it_is_counted_on(
    tmp_path: Path, is_damaged: bool
) -> None:
    one = checkpointer(tmp_path)
    for step in (2, 4):
        one.save(State(step))
    if is_damaged:
        file = next((tmp_path / "step-00000004").glob("model-*"))
        file.write_bytes(file.read_bytes()[:-1])
    checkpointer(tmp_path, keep_last=1).save(unhealthy(6))
    assert names(tmp_path) == ["step-00000006", "step-00000002" if is_damaged else "step-00000004"]


def test_round_steps_are_kept(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last=1, keep_every_steps=4, asynchronous=False)
    one = Checkpointer(tmp_path, config, Alone(), configuration={})
    for step in range(1, 10):
        one.save(State(step))
    assert names(tmp_path) == ["step-00000009", "step-00000008", "step-00000004"]


def test_a_save_is_due_after_so_many_minutes(tmp_path: Path) -> None:
    now = [0.0]
    config = CheckpointConfig(save_every_steps=0, save_every_minutes=2, asynchronous=False)
    one = Checkpointer(tmp_path, config, Alone(), configuration={}, clock=lambda: now[0])
    assert not one.due(1)
    now[0] = 120.0
    assert one.due(2)
    one.save(State(2))
    now[0] = 239.0
    assert not one.due(3)
    now[0] = 240.0
    assert one.due(4)


def test_the_copy_is_a_copy() -> None:
    buffers = HostBuffers()
    live = torch.arange(6.0)
    shards = written_shards({"model/x": live}, is_first_rank=True)
    first = buffers.copy(shards)["model/x"].data
    live.zero_()
    assert first.equal(torch.arange(6.0))
    assert buffers.copy(shards)["model/x"].data.data_ptr() == first.data_ptr()


@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 20])
def test_tensors_of_every_kind_are_copied(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr(snapshot, "_COPIED_BYTES", piece_bytes)
    live = {
        **State(3).live,
        "optimizer/turned": torch.arange(12.0).view(3, 4).t(),
        "optimizer/scalar": torch.tensor(2.5),
        "optimizer/nothing": torch.empty(0, 3),
        "optimizer/flags": torch.tensor([True, False]),
    }
    copies = HostBuffers().copy(written_shards(live, is_first_rank=True))
    assert copies.keys() == live.keys()
    for name, tensor in live.items():
        assert same_bits(copies[name].data, tensor)
        assert copies[name].data.is_contiguous()


def test_the_last_state_is_written_out_of_its_own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(
        LocalDisk, "write", lambda _, fd, content: (written.append(address(content)), os.write(fd, content))[1]
    )
    one = checkpointer(tmp_path, asynchronous=True)
    one.save(State(2))
    one.finish()
    first, written[:] = set(written), []
    one.save(state := State(4), is_last=True)
    live = {tensor.data_ptr() for tensor in state.live.values()}
    assert live <= set(written)
    assert not live & first
    assert names(tmp_path)[0] == "step-00000004"
