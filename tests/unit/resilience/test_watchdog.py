"""Which rank is said to be stuck, from signs of life alone."""

from typing import Any

from firstlight.base.heartbeat import Beat
from firstlight.config.training import ResilienceConfig
from firstlight.resilience.watchdog import find_stuck

CONFIG = ResilienceConfig(frozen_after_seconds=8, hung_after_seconds=10, first_phase_seconds=100)


def beat(rank: int, **facts: Any) -> Beat:
    usual: dict[str, Any] = {"first_step": 0, "step": 4, "num_phases": 12, "phase": "forward_backward"}
    usual |= {"began": 100.0, "longest_seconds": 1.0, "beaten": 105.0}
    return Beat(rank=rank, pid=1000 + rank, **(usual | facts))


def test_ranks_that_live_are_not_stuck() -> None:
    assert find_stuck([beat(0), beat(1)], now=105.1, config=CONFIG) is None
    assert find_stuck([], now=105.1, config=CONFIG) is None


def test_a_frozen_rank_is_named_before_those_that_wait_for_it() -> None:
    stuck = find_stuck([beat(0, beaten=119.9), beat(1, beaten=108.0)], now=120.0, config=CONFIG)
    assert stuck is not None
    assert (stuck.rank, stuck.pid, stuck.step, stuck.kind) == (1, 1001, 5, "frozen")
    assert stuck.what == "rank 1 (pid 1001) is frozen in step 5: no thread of it has run for 12.0 s"


def test_the_rank_that_is_behind_holds_up_the_others() -> None:
    beats = [beat(0, beaten=112.0), beat(1, beaten=112.0, num_phases=11, phase="data", began=99.0)]
    stuck = find_stuck(beats, now=112.0, config=CONFIG)
    assert stuck is not None
    assert (stuck.rank, stuck.kind) == (1, "hung")
    assert stuck.what.endswith("it has been in data for 13.0 s; the others wait for it")


def test_when_no_rank_is_behind_that_is_said() -> None:
    stuck = find_stuck([beat(0, beaten=112.0), beat(1, beaten=112.0)], now=112.0, config=CONFIG)
    assert stuck is not None
    assert "no rank is behind another" in stuck.what


def test_a_phase_may_last_five_times_as_long_as_it_ever_did() -> None:
    slow = [beat(0, beaten=129.0, longest_seconds=6.0)]
    assert find_stuck(slow, now=129.0, config=CONFIG) is None
    assert find_stuck([beat(0, beaten=131.0, longest_seconds=6.0)], now=131.0, config=CONFIG) is not None


def test_the_first_time_a_phase_may_last_long() -> None:
    assert find_stuck([beat(0, beaten=190.0, longest_seconds=0.0)], now=190.0, config=CONFIG) is None
    assert find_stuck([beat(0, beaten=201.0, longest_seconds=0.0)], now=201.0, config=CONFIG) is not None
