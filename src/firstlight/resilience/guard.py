"""Judges every step: go on, go back, or stop and why. Sees plain numbers only, and all ranks reach the same verdict."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from firstlight.base.errors import EXIT_PREEMPTED, FirstlightError
from firstlight.base.log import get_logger
from firstlight.base.peers import Peers
from firstlight.base.report import Corruption, StepReport
from firstlight.config.training import ResilienceConfig
from firstlight.resilience.signals import StopRequest
from firstlight.resilience.spikes import Spikes
from firstlight.resilience.verdict import Proceed, Rewind, Stop, Verdict


class Guard:
    """Counts bad steps in a row, those whose update was not applied and those whose loss is a spike, and notices
    requests to stop."""

    def __init__(
        self, config: ResilienceConfig, peers: Peers, asks_to_stop: Callable[[int], str | None] = lambda _step: None
    ) -> None:
        """`asks_to_stop`: who else wants the run to stop after a step, as the first rank sees it."""
        self._asks_to_stop = asks_to_stop
        self._config = config
        self._peers = peers
        self._request = StopRequest()
        self._skipped_in_a_row = self._spikes_in_a_row = 0
        self._spikes = Spikes(config.rewind.spike)
        self.bad_since: int | None = None
        """The first of the bad steps that have not ended yet."""
        self.num_rewinds = 0
        """Of the run so far, also of processes before this one: whoever rewinds sets it."""

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Listen for requests to stop for the length of the block."""
        with self._request.listening():
            yield

    def judge(self, report: StepReport) -> Verdict:
        """A collective: every rank calls it once after each step."""
        verdict = self._judge_step(report)
        if verdict is not None:
            return verdict
        asked = self._request.signal_name
        if asked is None and self._peers.rank == 0:
            asked = self._asks_to_stop(report.step)
        if self._peers.any_true(asked is not None):
            return Stop(reason=f"preempted by {asked or 'a request to another rank'}", exit_code=EXIT_PREEMPTED)
        return Proceed()

    def state_dict(self) -> dict[str, Any]:
        """What a restarted run must know to go on judging alike."""
        return {
            "skipped_in_a_row": self._skipped_in_a_row,
            "spikes_in_a_row": self._spikes_in_a_row,
            "bad_since": self.bad_since,
            "spikes": self._spikes.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._skipped_in_a_row = state["skipped_in_a_row"]
        self._spikes_in_a_row = state.get("spikes_in_a_row", 0)
        self.bad_since = state.get("bad_since")
        self._spikes.load_state_dict(state.get("spikes", {}))

    def _judge_step(self, report: StepReport) -> Verdict | None:
        """Gradient norm and loss are one number on all ranks, and so is this verdict."""
        if report.corruption is not None:
            return self._judge_corruption(report, report.corruption)
        if not report.update.applied:
            self._skipped_in_a_row += 1
            return self._judge_skip(report)
        self._skipped_in_a_row = 0
        limit = self._spikes.limit_broken_by(report)
        if limit is not None:
            self._spikes_in_a_row += 1
            return self._judge_spike(report, limit)
        self._spikes_in_a_row, self.bad_since = 0, None
        return None

    def _judge_corruption(self, report: StepReport, corruption: Corruption) -> Verdict:
        """What was saved since the last good look is wrong, perhaps, and so is the state now."""
        since = f"what was saved after step {corruption.good_step} may be wrong"
        fact = f"step {report.step}: {corruption.what}; {since}"
        get_logger().error(fact)
        may_rewind = self._config.on_corruption == "rewind" and self.num_rewinds < self._config.rewind.times
        if may_rewind and not corruption.is_lasting:
            first_step = corruption.good_step + 1
            return Rewind(first_step=first_step, last_step=report.step, reason=fact, leaves_out_samples=False)
        return Stop(reason=fact, exit_code=FirstlightError.exit_code, is_state_sound=False)

    def _judge_skip(self, report: StepReport) -> Verdict | None:
        update = report.update
        is_finite = math.isfinite(update.grad_norm)
        why = f", more than {update.norm_limit} (optimizer.skip_above)" if is_finite else ""
        source = f", {report.not_finite}" if report.not_finite else ""
        what = f"gradient norm is {update.grad_norm}{why}, loss {report.loss.total}{source}"
        fact = f"step {report.step}: {what}; not applied"
        self._note(report, fact)
        if self._config.on_not_finite == "stop" and not is_finite:
            return Stop(reason=f"{fact} (resilience.on_not_finite = stop)", exit_code=FirstlightError.exit_code)
        if self._skipped_in_a_row < self._config.max_skipped_steps:
            return None
        return self._rewind(report, f"{fact}, {self._skipped_in_a_row} times in a row (resilience.max_skipped_steps)")

    def _judge_spike(self, report: StepReport, limit: float) -> Verdict | None:
        assert self._config.rewind.spike is not None, "there are no spikes without"
        fact = f"step {report.step}: loss {report.loss.total:.6g} is a spike, more than {limit:.6g}"
        self._note(report, fact)
        if self._spikes_in_a_row < self._config.rewind.spike.for_steps:
            return None
        return self._rewind(report, f"{fact}, {self._spikes_in_a_row} times in a row (resilience.rewind.spike)")

    def _note(self, report: StepReport, fact: str) -> None:
        if self._peers.rank == 0:  # all ranks know the same
            get_logger().warning(fact)
        if self.bad_since is None:
            self.bad_since = report.step

    def _rewind(self, report: StepReport, why: str) -> Verdict:
        times = self._config.rewind.times
        if self.num_rewinds < times:
            assert self.bad_since is not None, "this step is bad"
            return Rewind(first_step=self.bad_since, last_step=report.step, reason=why)
        spent = f"; {times} rewinds are used up (resilience.rewind.times)" if times else ""
        return Stop(reason=why + spent, exit_code=FirstlightError.exit_code)
