"""What one rank cannot do ends all of them, and is said by one."""

import pytest

from firstlight.base.errors import FirstlightError, InputError, NoCheckpointError
from firstlight.base.peers import Alone, PeerFailed, together
from tests.unit.resilience.peers import ThreadPeers, on_ranks


def test_when_all_succeed_each_has_its_own_result() -> None:
    assert on_ranks(3, lambda peers: together(peers, lambda: peers.rank * 10)) == [0, 10, 20]
    assert together(Alone(), lambda: "done") == "done"


@pytest.mark.parametrize("failing", [{0}, {2}, {1, 2}, {0, 1, 2}])
def test_the_first_that_failed_says_why_and_all_end_alike(failing: set[int]) -> None:
    def act(rank: int) -> int:
        if rank in failing:
            raise NoCheckpointError(f"rank {rank} has none")
        return rank

    def one(peers: ThreadPeers) -> int:
        return together(peers, lambda: act(peers.rank))

    answers = on_ranks(3, one)
    first = min(failing)
    assert isinstance(answers[first], NoCheckpointError)
    assert str(answers[first]) == f"rank {first} has none"
    others = [answer for rank, answer in enumerate(answers) if rank != first]
    assert all(isinstance(answer, PeerFailed) for answer in others)
    assert {answer.exit_code for answer in answers if isinstance(answer, FirstlightError)} == {3}


def test_a_single_process_raises_what_went_wrong() -> None:
    def act() -> None:
        raise InputError("no such file")

    with pytest.raises(InputError, match="no such file"):
        together(Alone(), act)
