"""What a run that goes back needs of its checkpoints: one of before the trouble, and none of after."""

from pathlib import Path

import pytest

from firstlight.base.errors import NoCheckpointError
from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.checkpoint.step_folder import candidates, step_of
from tests.unit.checkpoint.state import State, blank, checkpointer, is_state_of, saved


def steps(folder: Path) -> list[int]:
    return [step_of(one) for one in candidates(folder)]


def save(one: Checkpointer, step: int, bad_since: int | None) -> None:
    state = State(step)
    state.values["bad_since"] = bad_since
    one.save(state)


@pytest.mark.parametrize("is_new_process", [False, True])
def test_the_newest_of_before_trouble_is_kept(tmp_path: Path, is_new_process: bool) -> None:
    one = checkpointer(tmp_path, keep_last=1)
    for step, bad_since in ((2, None), (4, None), (6, 5), (8, 5)):
        one = checkpointer(tmp_path, keep_last=1) if is_new_process else one
        save(one, step, bad_since)
    assert steps(tmp_path) == [8, 4]
    save(one, 10, None)
    assert steps(tmp_path) == [10]


def test_only_those_of_before_a_step(tmp_path: Path) -> None:
    one = checkpointer(saved(tmp_path, 2, 4, 6))
    assert one.restore(state := blank(), before=6) == 4
    assert is_state_of(state, 4)
    assert one.restore(blank(), before=2) is None


def test_what_the_run_refuses_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = blank()
    state.refused = {4, 6}
    assert checkpointer(saved(tmp_path, 2, 4, 6)).restore(state) == 2
    assert caplog.messages[0] == f"checkpoint passed over: {tmp_path / 'step-00000006'}: step 6 is not wanted"
    state.refused = {2, 4, 6}
    with pytest.raises(NoCheckpointError):
        checkpointer(tmp_path).restore(state)


def test_what_was_saved_later_goes_and_is_saved_again(tmp_path: Path) -> None:
    one = checkpointer(tmp_path, keep_last=9)
    for step in (2, 4, 6):
        one.save(State(step))
    one.restore(blank(), before=3)
    one.remove_after(2)
    assert steps(tmp_path) == [2]
    one.save(State(6))
    assert steps(tmp_path) == [6, 2]


def test_a_save_in_flight_is_waited_for(tmp_path: Path) -> None:
    one = checkpointer(tmp_path, asynchronous=True)
    one.save(State(2))
    one.save(State(4))
    assert one.restore(blank(), before=4) == 2
    one.remove_after(2)
    assert steps(tmp_path) == [2]
