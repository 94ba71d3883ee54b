"""Whether the ranks are started again after a failure: not for ever, and not for the same one over and over."""

from collections import Counter
from dataclasses import dataclass

from firstlight.config.training import ResilienceConfig


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What makes two failures the same."""

    kind: str
    """"SIGKILL", "frozen", "ValueError"..."""
    rank: int
    step: int


class RestartBudget:
    """Counts failures and says when it is enough."""

    def __init__(self, config: ResilienceConfig) -> None:
        self._config = config
        self._seen: Counter[Signature] = Counter()

    def refusal(self, failure: Signature) -> str | None:
        """Why the ranks are not started again after `failure`; None when they are. To be asked once for each."""
        self._seen[failure] += 1
        count = self._seen[failure]
        if self._config.max_restarts == 0:
            return "resilience.max_restarts = 0"
        if count >= self._config.same_failure_limit:
            return (
                f"{failure.kind} of rank {failure.rank} in step {failure.step} came {count} times "
                f"(resilience.same_failure_limit)"
            )
        if self._seen.total() > self._config.max_restarts:
            return f"{self._config.max_restarts} restarts are used up (resilience.max_restarts)"
        return None
