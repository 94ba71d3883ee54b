"""How often the ranks start again."""

from firstlight.config.training import ResilienceConfig
from firstlight.resilience.restarts import RestartBudget, Signature


def failure(step: int, kind: str = "SIGKILL", rank: int = 1) -> Signature:
    return Signature(kind=kind, rank=rank, step=step)


def test_the_same_failure_is_borne_so_many_times() -> None:
    budget = RestartBudget(ResilienceConfig(same_failure_limit=3, max_restarts=100))
    assert budget.refusal(failure(7)) is None
    assert budget.refusal(failure(8)) is None
    assert budget.refusal(failure(7)) is None
    assert budget.refusal(failure(7)) == "SIGKILL of rank 1 in step 7 came 3 times (resilience.same_failure_limit)"


def test_different_failures_use_up_the_restarts() -> None:
    budget = RestartBudget(ResilienceConfig(max_restarts=2))
    assert [budget.refusal(failure(step)) for step in (1, 2)] == [None, None]
    assert budget.refusal(failure(3)) == "2 restarts are used up (resilience.max_restarts)"


def test_without_restarts_there_is_none() -> None:
    assert RestartBudget(ResilienceConfig(max_restarts=0)).refusal(failure(1)) == "resilience.max_restarts = 0"
