"""Measures a run: where the time of each step goes, how fast it is, and what its loss is. It never decides."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.base.report import EvalReport, Report, StepReport
from firstlight.config.training import MonitorConfig
from firstlight.observe.quantity import in_flops
from firstlight.observe.record import PAUSES, SECONDS_PREFIX, evaluation_figures, loss_figures
from firstlight.observe.sinks import Sink


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What must be known of a run to turn seconds into figures."""

    total_steps: int
    flops_per_token: Callable[[int], float]
    """Model FLOPs of a token's forward and backward, by the sequence length; recomputation does not count."""
    peak_flops_per_second: float | None
    """Of all ranks together; None when it is not known, and then there is no MFU."""
    precision: str
    """What the peak is a peak of: "bf16, dense, as the vendor gives it", "fp32 matrix products, measured"."""


@dataclass
class _Window:
    """What has been measured since the last record."""

    started: float
    tokens_before: int
    steps: int = 0
    skipped_steps: int = 0
    flops: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


class Recorder:
    """Takes every report; every `log_every_steps`, and at the first and the last step, gives one record to the sinks.

    Seconds are the host's: work that a device still has in its queue counts where the host waits for it.
    A sink that fails (a full disk, a closed pipe) is closed and the run goes on without it.
    """

    def __init__(
        self,
        *,
        config: MonitorConfig,
        sinks: Sequence[Sink],
        facts: RunFacts,
        memory_bytes: Callable[[], int],
        clock: Callable[[], float] = time.perf_counter,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._sinks = list(sinks)
        self._facts = facts
        self._memory_bytes = memory_bytes
        self._clock = clock
        self._wall_clock = wall_clock
        self._opened = clock()
        self._window = _Window(started=self._opened, tokens_before=0)
        self._position: dict[str, float] = {"samples": 0, "tokens": 0}
        self._unwritten: StepReport | None = None
        self._is_first_step = True

    @contextmanager
    def open(self, step: int, *, samples: int, tokens: int) -> Iterator[None]:
        """Measure a run that continues after `step` steps, with that many samples and tokens consumed.

        Sinks forget what they hold of later steps. On leaving, a last incomplete window is written.
        """
        self._opened = self._clock()
        self._window = _Window(started=self._opened, tokens_before=tokens)
        self._position = {"samples": samples, "tokens": tokens}
        self._unwritten = None
        self._is_first_step = True
        self._say_peak()
        try:
            for sink in self._sinks:
                _open(sink, step)
            yield
            if self._unwritten is not None:
                self._write_step(self._unwritten)
        finally:
            for sink in self._sinks:
                _close(sink)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Count the seconds spent inside under `name`."""
        started = self._clock()
        try:
            yield
        finally:
            seconds = self._window.seconds
            seconds[name] = seconds.get(name, 0.0) + self._clock() - started

    def record(self, report: Report) -> None:
        """Take the facts of a step or of an evaluation."""
        if isinstance(report, EvalReport):
            self._write_evaluation(report)
            return
        self._window.steps += 1
        self._window.skipped_steps += not report.update.applied
        tokens = report.global_batch_size * report.sequence_length
        self._window.flops += tokens * self._facts.flops_per_token(report.sequence_length)
        self._position = {"samples": report.samples, "tokens": report.tokens}
        self._unwritten = report
        is_last = report.step == self._facts.total_steps
        if self._is_first_step or is_last or report.step % self._config.log_every_steps == 0:
            self._write_step(report)
        self._is_first_step = False

    def _write_step(self, report: StepReport) -> None:
        now = self._clock()
        record = loss_figures(report) | self._speed(report, now) | self._moment(now)
        self._window = _Window(started=now, tokens_before=report.tokens)
        self._unwritten = None
        self._deliver(lambda sink: sink.write_step(record))

    def _write_evaluation(self, report: EvalReport) -> None:
        record = {"step": report.step, **self._position, **evaluation_figures(report), **self._moment(self._clock())}
        self._deliver(lambda sink: sink.write_evaluation(record))

    def _speed(self, report: StepReport, now: float) -> dict[str, float]:
        window, facts = self._window, self._facts
        paused = sum(window.seconds.get(name, 0.0) for name in PAUSES)
        trained = max(now - window.started - paused, 0.0)
        figures: dict[str, float] = {"step_seconds": trained / window.steps}
        if trained > 0:
            figures["tokens_per_second"] = (report.tokens - window.tokens_before) / trained
            if facts.peak_flops_per_second:
                figures["mfu"] = window.flops / trained / facts.peak_flops_per_second
        figures |= {f"{SECONDS_PREFIX}{name}": total / window.steps for name, total in window.seconds.items()}
        figures["eta_seconds"] = max(facts.total_steps - report.step, 0) * figures["step_seconds"]
        figures["skipped_steps"] = window.skipped_steps
        figures["memory_bytes"] = self._memory_bytes()
        return figures

    def _moment(self, now: float) -> dict[str, float]:
        return {"elapsed_seconds": now - self._opened, "time": self._wall_clock()}

    def _say_peak(self) -> None:
        if self._sinks and self._facts.peak_flops_per_second:
            peak = in_flops(self._facts.peak_flops_per_second)
            get_logger().info("MFU is relative to %s over all ranks (%s)", peak, self._facts.precision)

    def _deliver(self, write: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                write(sink)
            except OSError as error:
                get_logger().warning("%s stops here, the run goes on: %s", type(sink).__name__, error)
                self._sinks.remove(sink)
                _close(sink)


def _open(sink: Sink, step: int) -> None:
    try:
        sink.open(step)
    except OSError as error:
        raise FirstlightError(f"{type(sink).__name__} (monitor.sinks) cannot be opened: {error}") from None


def _close(sink: Sink) -> None:
    try:
        sink.close()
    except OSError as error:
        get_logger().warning("%s could not be closed: %s", type(sink).__name__, error)
