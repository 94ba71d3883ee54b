"""torchelastic's agent, made to end all ranks within seconds of one's failure and to know who failed by itself."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SubprocessContext

from firstlight.base.failure import read_failures
from firstlight.base.traces import ask_all
from firstlight.launch.parent import TRACE_SIGNAL
from firstlight.resilience.watchdog import Stuck

LAST_WORDS_SECONDS = 2.0
"""What the other ranks have, after one has failed, to notice it and leave records of their own."""

_KILL_AFTER_SECONDS = 3
"""What a rank has after SIGTERM. One in a collective that will not end does not hear it."""

_TRACE_SECONDS = 0.5
"""What ranks have to write where they are."""


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """What ends the ranks here is a failure of another node's."""

    at_once: bool
    """Without last words: what they wait for does not come."""


@dataclass(frozen=True)
class Pause:
    """The ranks of all nodes save and end after their step, to start again with more of them."""


Reason = Stuck | Elsewhere | Pause


class Agent(LocalElasticAgent):
    """A failure ends the others soon; a request to stop lets them finish their step and save."""

    store_folder: Path
    ended_by_themselves: dict[int, int]
    """Exit codes by local rank, of ranks that failed before any of them was told to end."""
    stuck: Stuck | None
    """The rank that held up the others and was ended for that."""
    watch: Callable[[], Reason | None]
    is_pausing: bool
    noticed_at: float | None
    """When the failure was noticed, on the monotonic clock."""

    @classmethod
    def watching(
        cls,
        spec: WorkerSpec,
        store_folder: Path,
        *,
        shutdown_seconds: int,
        watch: Callable[[], Reason | None] = lambda: None,
    ) -> "Agent":
        """The agent of `spec`, whose ranks leave their records in `store_folder`. `watch` is asked often."""
        agent = cls(spec, logs_specs=DefaultLogsSpecs(), start_method="spawn", shutdown_timeout=shutdown_seconds)
        agent.store_folder, agent.ended_by_themselves = store_folder, {}
        agent.stuck, agent.watch, agent.noticed_at, agent.is_pausing = None, watch, None, False
        return agent

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        context = self._pcontext
        if isinstance(context, SubprocessContext):
            reason = self.watch()
            if isinstance(reason, Pause):
                self._pause(context)
            elif reason is not None:
                self.noticed_at = time.monotonic()
                self._end_for(context, reason)
            elif self._has_failure(context):
                self.noticed_at = time.monotonic()
                self._end_failed(context)
        result: RunResult = super()._monitor_workers(worker_group)
        return result

    def _pause(self, context: SubprocessContext) -> None:
        """As at a request to stop; a second one would have them leave at once."""
        if not self.is_pausing:
            self.is_pausing = True
            _signal_all(context, signal.SIGTERM)

    def _end_failed(self, context: SubprocessContext) -> None:
        _wait_for_end(context, LAST_WORDS_SECONDS)
        self.ended_by_themselves = {rank: code for rank, code in _exit_codes(context).items() if code}
        context.close(timeout=_KILL_AFTER_SECONDS)

    def _end_for(self, context: SubprocessContext, reason: Stuck | Elsewhere) -> None:
        """All at once where they wait, in collectives in which they hear nothing."""
        if isinstance(reason, Stuck):
            self.stuck = reason
            ask_all(self.store_folder)
            _signal_all(context, TRACE_SIGNAL)
            time.sleep(_TRACE_SECONDS)
        elif not reason.at_once:
            self._end_failed(context)
            return
        _signal_all(context, signal.SIGKILL)
        context.close(timeout=_KILL_AFTER_SECONDS)

    def _has_failure(self, context: SubprocessContext) -> bool:
        """A process that failed, or a record: its rank may hang in what it tears down."""
        return any(_exit_codes(context).values()) or bool(read_failures(self.store_folder))


def _signal_all(context: SubprocessContext, number: signal.Signals) -> None:
    for handler in context.subprocess_handlers.values():
        with suppress(ProcessLookupError):
            os.kill(handler.proc.pid, number)


def _exit_codes(context: SubprocessContext) -> dict[int, int]:
    """Of the processes that have ended."""
    polled = {rank: handler.proc.poll() for rank, handler in context.subprocess_handlers.items()}
    return {rank: code for rank, code in polled.items() if code is not None}


def _wait_for_end(context: SubprocessContext, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(_exit_codes(context)) < context.nprocs:
        time.sleep(0.05)
