"""Judges every step: go on, or stop and why. Sees plain numbers only, and all ranks reach the same verdict."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from firstlight.base.errors import EXIT_PREEMPTED, FirstlightError
from firstlight.base.log import get_logger
from firstlight.base.peers import Peers
from firstlight.base.report import StepReport
from firstlight.config.training import ResilienceConfig
from firstlight.resilience.signals import StopRequest
from firstlight.resilience.verdict import Proceed, Stop, Verdict


class Guard:
    """Counts steps whose update was not applied, and notices requests to stop."""

    def __init__(
        self, config: ResilienceConfig, peers: Peers, asks_to_stop: Callable[[int], str | None] = lambda _step: None
    ) -> None:
        """`asks_to_stop`: who else wants the run to stop after a step, as the first rank sees it."""
        self._asks_to_stop = asks_to_stop
        self._config = config
        self._peers = peers
        self._request = StopRequest()
        self._skipped_in_a_row = 0

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Listen for requests to stop for the length of the block."""
        with self._request.listening():
            yield

    def judge(self, report: StepReport) -> Verdict:
        """A collective: every rank calls it once after each step."""
        not_finite = self._judge_update(report)
        if not_finite is not None:
            return not_finite
        asked = self._request.signal_name
        if asked is None and self._peers.rank == 0:
            asked = self._asks_to_stop(report.step)
        if self._peers.any_true(asked is not None):
            return Stop(reason=f"preempted by {asked or 'a request to another rank'}", exit_code=EXIT_PREEMPTED)
        return Proceed()

    def state_dict(self) -> dict[str, int]:
        """What a restarted run must know to go on judging alike."""
        return {"skipped_in_a_row": self._skipped_in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._skipped_in_a_row = state["skipped_in_a_row"]

    def _judge_update(self, report: StepReport) -> Stop | None:
        """The gradient norm is one number on all ranks, and so is this verdict."""
        update = report.update
        if update.applied:
            self._skipped_in_a_row = 0
            return None
        self._skipped_in_a_row += 1
        is_finite = math.isfinite(update.grad_norm)
        why = f", more than {update.norm_limit} (optimizer.skip_above)" if is_finite else ""
        fact = f"step {report.step}: gradient norm is {update.grad_norm}{why}, loss {report.loss.total}; not applied"
        get_logger().warning(fact)
        if self._config.on_not_finite == "stop" and not is_finite:
            return Stop(reason=f"{fact} (resilience.on_not_finite = stop)", exit_code=FirstlightError.exit_code)
        if self._skipped_in_a_row >= self._config.max_skipped_steps:
            reason = f"{fact}, {self._skipped_in_a_row} times in a row (resilience.max_skipped_steps)"
            return Stop(reason=reason, exit_code=FirstlightError.exit_code)
        return None
