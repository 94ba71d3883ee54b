"""Which failure is the first cause, from records and exit codes alone."""

from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.base.failure import Failure, Reported, failures_reported, read_failures
from firstlight.base.peers import PeerFailed
from firstlight.base.world import World
from firstlight.launch.cause import first_cause


def failure(rank: int, error: Exception) -> Failure:
    return Failure.of(error, World(rank=rank, size=4), None)


GLOO = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]")


def test_a_consequence_that_is_earlier_is_not_the_cause() -> None:
    cause = first_cause([failure(0, GLOO), failure(2, ValueError("odd"))], {0: 1, 2: 1})
    assert cause is not None
    assert "ValueError: odd" in cause.message


def test_a_killed_rank_comes_before_consequences_and_after_what_is_recorded() -> None:
    killed = first_cause([failure(0, GLOO)], {0: 1, 3: -9})
    assert killed is not None
    assert killed.message.startswith("error: rank 3 on host ")
    assert "SIGKILL" in killed.message
    recorded = first_cause([failure(0, ValueError("odd"))], {0: 1, 3: -6})
    assert recorded is not None
    assert "ValueError: odd" in recorded.message


def test_a_rank_that_aborts_in_what_it_tears_down_is_known_by_its_record() -> None:
    cause = first_cause([failure(1, GLOO)], {1: -6})
    assert cause is not None
    assert "Connection closed by peer" in cause.message


def test_ranks_that_ended_in_order_have_no_cause() -> None:
    assert first_cause([], {0: 75, 1: 75}) is None


def test_wrong_input_keeps_its_message_and_exit_code() -> None:
    cause = first_cause([failure(0, InputError("no such file")), failure(1, PeerFailed(0, 2))], {0: 2, 1: 2})
    assert cause is not None
    assert (cause.message, cause.exit_code) == ("error: no such file", 2)


def test_a_record_is_written_before_the_exception_leaves(tmp_path: Path) -> None:
    world = World(rank=1, size=2, store_folder=tmp_path)
    with pytest.raises(Reported), failures_reported(world, tmp_path / "logs"):
        raise KeyError("k")
    (record,) = read_failures(tmp_path)
    assert (record.rank, record.exit_code, record.is_consequence) == (1, 1, False)
    assert "KeyError: 'k'" in Path(record.log).read_text()


def test_the_whole_trace_is_in_the_message_when_there_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder would be")
    world = World(rank=1, size=2, store_folder=tmp_path)
    with pytest.raises(Reported), failures_reported(world, tmp_path / "logs"):
        raise KeyError("k")
    assert "Traceback (most recent call last)" in read_failures(tmp_path)[0].message()


def test_a_single_process_keeps_its_exception() -> None:
    with pytest.raises(KeyError), failures_reported(World(), None):
        raise KeyError("k")
