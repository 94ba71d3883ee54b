"""Measures a run: where the time of each step goes, how fast it is, and what its loss is. It never decides."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.base.report import EvalReport, Report, StepReport
from firstlight.config.monitor import MonitorConfig
from firstlight.observe.events import EventLog
from firstlight.observe.quantity import in_flops
from firstlight.observe.record import PAUSES, SECONDS_PREFIX, RankTable, evaluation_figures, loss_figures
from firstlight.observe.sink import Sink


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


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What is measured at a recorded step: figures of the whole run, and of each rank."""

    figures: Mapping[str, float] = field(default_factory=dict)
    ranks: RankTable = field(default_factory=dict)


class Measures(Protocol):
    """Measures at recorded steps, on all ranks."""

    def expect(self) -> None:
        """The step that begins now will be recorded."""

    def span(self, name: str) -> AbstractContextManager[object]:
        """Watches what is done inside of a step that will be recorded."""

    def take(self, own: Mapping[str, float]) -> Taken:
        """Measure after a step. `own` are this rank's figures, of the same names on every rank. A collective."""


class StepProfile(Protocol):
    """Watches some steps of this rank closely."""

    def before_step(self, step: int) -> None:
        """Step `step` begins."""

    def after_step(self, step: int) -> None:
        """Step `step` has ended."""

    def span(self, name: str) -> AbstractContextManager[object]:
        """Marks what is done inside."""

    def close(self) -> None:
        """The run ends, perhaps in the middle of the steps that are watched."""


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What a recorder reads beside the clock: this rank's peak memory in bytes, measures of all ranks, a profile."""

    memory_bytes: Callable[[], int]
    measures: Measures | None = None
    profile: StepProfile | None = None


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
        instruments: Instruments,
        events: EventLog | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._sinks = list(sinks)
        self._facts = facts
        self._instruments = instruments
        self._events = events or EventLog(None)
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
            if step < self._facts.total_steps:
                self._events.add("start", step, f"goes on after step {step}" if step else "begins")
            self._announce(step + 1)
            yield
            if self._unwritten is not None:
                self._write_step(self._unwritten)
        finally:
            if self._instruments.profile is not None:
                self._instruments.profile.close()
            for sink in self._sinks:
                _close(sink)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Count the seconds spent inside under `name`; what it takes to watch closely, under "monitor"."""
        opened, inside, window = self._clock(), 0.0, self._window
        try:
            with self._watched(name):
                started = self._clock()
                try:
                    yield
                finally:
                    inside = self._clock() - started
        finally:
            watching = self._clock() - opened - inside
            for part, seconds in ((name, inside), ("monitor", watching)):
                window.seconds[part] = window.seconds.get(part, 0.0) + seconds

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        profile, measures = self._instruments.profile, self._instruments.measures
        with (
            profile.span(name) if profile is not None else nullcontext(),
            measures.span(name) if measures is not None else nullcontext(),
        ):
            yield

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
        if self._instruments.profile is not None:
            with self.span("monitor"):
                self._instruments.profile.after_step(report.step)
        if not report.update.applied:
            facts = {"grad_norm": report.update.grad_norm, "loss": report.loss.total}
            source = f", {report.not_finite}" if report.not_finite else ""
            text = f"update left out: gradient norm {report.update.grad_norm:g}{source}"
            self._events.add("skip", report.step, text, facts)
        if self._is_due(report.step):
            self._write_step(report)
        self._is_first_step = False
        self._announce(report.step + 1)

    def _is_due(self, step: int) -> bool:
        is_last = step == self._facts.total_steps
        return self._is_first_step or is_last or step % self._config.log_every_steps == 0

    def _announce(self, step: int) -> None:
        """Tell those who must know before a step that it begins."""
        if self._instruments.profile is not None:
            self._instruments.profile.before_step(step)
        if self._instruments.measures is not None and self._is_due(step):
            self._instruments.measures.expect()

    def _write_step(self, report: StepReport) -> None:
        now = self._clock()
        figures = loss_figures(report) | self._speed(report, now)
        taken = self._measured(figures)
        record = {**figures, **taken.figures, **self._moment(now)}
        self._unwritten = None
        self._deliver(lambda sink: sink.write_step(record))
        if taken.ranks:
            self._deliver(lambda sink: sink.write_ranks(report.step, taken.ranks))
        # a rank that waits for the measures of others is not slow, so this counts apart
        seconds = {"monitor": self._clock() - now}
        self._window = _Window(started=now, tokens_before=report.tokens, seconds=seconds)

    def _measured(self, figures: Mapping[str, float]) -> Taken:
        """What the measures say."""
        if self._instruments.measures is None:
            return Taken()
        own = ("step_seconds", "memory_bytes", f"{SECONDS_PREFIX}data", f"{SECONDS_PREFIX}forward_backward")
        return self._instruments.measures.take({name: figures.get(name, 0.0) for name in own})

    def _write_evaluation(self, report: EvalReport) -> None:
        record = {"step": report.step, **self._position, **evaluation_figures(report), **self._moment(self._clock())}
        self._deliver(lambda sink: sink.write_evaluation(record))
        facts = {"set": report.name, "loss": report.loss}
        self._events.add("evaluation", report.step, f"held-out {report.name}: loss {report.loss:.4f}", facts)

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
        figures["memory_bytes"] = self._instruments.memory_bytes()
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
