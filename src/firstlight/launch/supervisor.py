"""Watches over the ranks of a run, and says after a failure whether they start again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.base.errors import FirstlightError
from firstlight.base.heartbeat import Beat, read_beats
from firstlight.base.log import get_logger
from firstlight.base.traces import LOGS, keep_traces
from firstlight.config.training import ResilienceConfig
from firstlight.launch.cause import Cause
from firstlight.launch.ledger import Fault, Ledger
from firstlight.resilience.restarts import RestartBudget, Signature
from firstlight.resilience.watchdog import Stuck, find_stuck

WATCH_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the ranks of one round ended: by a failure of theirs, or because one was stuck."""

    cause: Cause
    noticed_at: float
    """On the monotonic clock."""
    store_folder: Path
    """With the last signs of life."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from a failure, and what the user is told."""

    fault: Fault
    message: str
    exit_code: int = 0
    """When the ranks do not start again."""

    @property
    def starts_again(self) -> bool:
        """Whether the ranks do."""
        return self.fault.action == "restart"


@dataclass(kw_only=True)
class Supervisor:
    """Of one run, over all rounds of its ranks. `save_last_state` is called when they do not start again: it makes
    the newest state in memory durable and says where it is, or None when the disk has it already."""

    config: ResilienceConfig
    ledger: Ledger
    save_last_state: Callable[[], Path | None]
    round: int = 0
    _step: int = 0
    _looked_at: float = 0.0
    _budget: RestartBudget = field(init=False)

    def __post_init__(self) -> None:
        self._budget = RestartBudget(self.config)

    def watch(self, store_folder: Path) -> Stuck | None:
        """Read the signs of life: how far the ranks are, and whether one holds up the others."""
        now = time.monotonic()
        if now - self._looked_at < WATCH_SECONDS:
            return None
        self._looked_at = now
        beats = read_beats(store_folder)
        self.note(beats)
        return find_stuck(beats, now, self.config)

    def starts_again(self, ended: Ended) -> bool:
        """Write the failure down, and decide. A failure that ends the run leaves the last state on the disk."""
        self.note(read_beats(ended.store_folder))
        place = self.place_of_traces(ended.cause.kind)
        traces = place if self.keep_traces(ended.store_folder, place) else ""
        verdict = self.judge(ended.cause, ended.noticed_at, traces=traces)
        self.say(verdict)
        if not verdict.starts_again:
            self.save()
        return verdict.starts_again

    def judge(self, cause: Cause, noticed_at: float, *, traces: str = "") -> Verdict:
        """Write the failure down, and decide. `traces` is where what the ranks were at has been kept."""
        step = self._step + 1
        refusal = self._refusal(cause, step)
        told = cause.message.removeprefix("error: ")
        where = f"\nstacks and collectives of the ranks: {self.ledger.folder / traces}" if traces else ""
        fault = Fault(
            time=time.time(),
            round=self.round,
            kind=cause.kind,
            rank=cause.rank,
            step=step,
            cause=told.partition("\n")[0],
            action="restart" if refusal is None else "stop",
            traces=traces,
        )
        self.ledger.failed(fault, noticed_at)
        if refusal is None:
            self.round += 1
            return Verdict(fault=fault, message=f"{told}{where}\nstep {step} was under way; the ranks start again")
        return Verdict(fault=fault, message=f"error: {told}{where}{refusal}", exit_code=cause.exit_code)

    def say(self, verdict: Verdict) -> None:
        """To the user."""
        (get_logger().warning if verdict.starts_again else get_logger().error)(verdict.message)

    def adopt(self, faults: Sequence[Fault]) -> None:
        """Go on from what another supervisor of the run has written down."""
        self._budget = RestartBudget(self.config)
        for fault in faults:
            if fault.rank is not None:
                self._budget.refusal(Signature(kind=fault.kind, rank=fault.rank, step=fault.step))
        self.ledger.adopt(faults)

    def ended(self) -> None:
        """Say what the faults of the run came to."""
        summary = self.ledger.summary()
        if summary:
            get_logger().info(summary)

    def _refusal(self, cause: Cause, step: int) -> str | None:
        """Why the ranks stay down, as the end of a message."""
        if cause.exit_code != FirstlightError.exit_code:
            return ""  # wrong input, a lost checkpoint, a folder in use: the same would happen again
        reason = self._budget.refusal(Signature(kind=cause.kind, rank=cause.rank, step=step))
        if reason is None or self.config.max_restarts == 0:
            return None if reason is None else ""
        return f"\nthe ranks do not start again: {reason}"

    def place_of_traces(self, kind: str) -> str:
        """Where in the run's folder what ranks were at is kept, of a failure of this kind now."""
        return str(Path(LOGS) / f"step-{self._step + 1}-{kind}-{int(time.time())}")

    def keep_traces(self, store_folder: Path, place: str) -> bool:
        """Keep what the ranks of this node have left there; whether they have left anything."""
        return keep_traces(store_folder, self.ledger.folder / place)

    def note(self, beats: Sequence[Beat]) -> None:
        """Remember how far the ranks are."""
        if beats:
            self._step = min(beat.step for beat in beats)
            self.ledger.went_on(first_step=max(beat.first_step for beat in beats), step=self._step)

    def save(self) -> None:
        """Make the last state durable, and say where it is."""
        try:
            place = self.save_last_state()
        except FirstlightError as error:
            get_logger().error(f"error: the last state could not be saved: {error}")
            return
        if place is not None:
            get_logger().info(f"the last state in memory is saved in {place}")
