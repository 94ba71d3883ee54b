"""The loop. It knows an engine, a checkpointer, a guard and a recorder, and nothing of what is behind them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from firstlight.base.heartbeat import Heart
from firstlight.base.report import Corruption, LossReport, StepReport, Update
from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.data.stream import Batch
from firstlight.observe.recorder import Recorder
from firstlight.parallel.engine import Engine
from firstlight.resilience.guard import Guard
from firstlight.resilience.verdict import Proceed, Rewind, Stop, Verdict
from firstlight.train.checks import Checks
from firstlight.train.evaluate import Evaluation
from firstlight.train.not_finite import NotFinite
from firstlight.train.pace import Pace
from firstlight.train.planted_faults import PlantedFaults
from firstlight.train.rewinds import Rewinds
from firstlight.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop calls."""

    engine: Engine
    checkpointer: Checkpointer
    guard: Guard
    recorder: Recorder
    evaluator: Evaluation
    heart: Heart
    faults: PlantedFaults
    checks: Checks
    not_finite: NotFinite
    pace: Pace
    rewinds: Rewinds
    snapshots: Checkpointer | None = None
    """Saves in memory; None: there are none."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: the step it started from and the step it reached."""

    first_step: int
    step: int
    reason: str
    exit_code: int = 0


def run(parts: Parts, state: TrainState) -> Outcome:
    """Take optimizer steps until all are done or the guard stops the run. The last state is saved, unless it
    cannot be trusted."""
    with parts.guard.armed():
        first_step = parts.checkpointer.restore(state) or 0
        with parts.heart.beating(state.step):
            verdict = _run_steps(parts, state)
            while isinstance(verdict, Rewind):
                with parts.heart.phase("rewind", is_steady=False):
                    refused = parts.rewinds.take(verdict, state)
                if refused is not None:
                    _save_last(parts, state, refused)
                verdict = refused or _run_steps(parts, state)
    if isinstance(verdict, Stop):
        return Outcome(first_step=first_step, step=state.step, reason=verdict.reason, exit_code=verdict.exit_code)
    return Outcome(first_step=first_step, step=state.step, reason="all steps are done")


def _run_steps(parts: Parts, state: TrainState) -> Verdict:
    """Until all steps are done or the guard has something against another one; what it has against it."""
    verdict: Verdict = Proceed()
    with parts.recorder.open(state.step, samples=state.samples, tokens=state.tokens):
        parts.checks.began(state)
        evaluate_if_due(parts, state)
        while not state.finished() and isinstance(verdict, Proceed):
            report = train_step(parts, state)
            parts.recorder.record(report)
            parts.heart.stepped(state.step)
            parts.rewinds.stepped(state.step)
            verdict = parts.guard.judge(report)
            # A request to stop that comes with the last step has nothing left to stop.
            if isinstance(verdict, Stop) and verdict.is_request and state.finished():
                verdict = Proceed()
            if isinstance(verdict, Proceed):
                evaluate_if_due(parts, state)
                keep(parts, state)
        if not isinstance(verdict, Rewind):
            _save_last(parts, state, verdict)
    return verdict


def _save_last(parts: Parts, state: TrainState, verdict: Proceed | Stop) -> None:
    with _phase(parts, "checkpoint", is_steady=False):
        if isinstance(verdict, Proceed) or verdict.is_state_sound:
            parts.checkpointer.save(state, is_last=True)
        parts.checkpointer.finish()


def keep(parts: Parts, state: TrainState) -> None:
    """Save the state on the disk, in memory, or not, as is due."""
    if parts.checkpointer.due(state.step):
        with _phase(parts, "checkpoint", is_steady=False):  # it may wait for the save before it
            parts.checkpointer.save(state)
    if parts.snapshots is not None and not state.finished() and parts.snapshots.due(state.step):
        with _phase(parts, "snapshot"):
            parts.snapshots.save(state)


def evaluate_if_due(parts: Parts, state: TrainState) -> None:
    """Evaluate after a step that is due and was not evaluated yet: a run that was stopped there makes up for it."""
    if state.evaluated_step == state.step or not parts.evaluator.due(state.step):
        return
    with _phase(parts, "evaluate"):
        evaluations = parts.evaluator.run(state.step)
    for evaluation in evaluations:
        parts.recorder.record(evaluation)
    state.evaluated_step = state.step


def train_step(parts: Parts, state: TrainState) -> StepReport:
    """One optimizer step: fetch, forward and backward, update."""
    step = state.step + 1
    with _phase(parts, "data"), parts.pace.fetching():
        parts.faults.before_step(step)
        batch = next(state.data)
    replay_if_due(parts, step, batch)
    with _phase(parts, "forward_backward"):
        loss = parts.engine.forward_backward(batch)
        parts.pace.computed(step)
    learning_rate = state.optimizer.learning_rate
    parts.faults.before_update(step)
    with _phase(parts, "optimizer"):
        update = state.optimizer.step()
    corruption = check_if_due(parts, step, state)
    source = source_if_not_finite(parts, state, batch, loss, update)
    state.advance(batch, sequence_length=batch.tokens.shape[1])
    return StepReport(
        step=state.step,
        loss=loss,
        update=update,
        learning_rate=learning_rate,
        samples=state.samples,
        tokens=state.tokens,
        global_batch_size=batch.samples,
        sequence_length=batch.tokens.shape[1],
        phase=batch.phase,
        corruption=corruption,
        not_finite=source,
    )


def replay_if_due(parts: Parts, step: int, batch: Batch) -> None:
    """Compute rows of a step twice before it, where that is asked for."""
    if parts.checks.due_before(step):
        with _phase(parts, "check"):
            parts.checks.before_step(step, batch)


def check_if_due(parts: Parts, step: int, state: TrainState) -> Corruption | None:
    """What is wrong with the numbers after the update of step `step`, where that is looked at."""
    if not parts.checks.due_after(step):
        return None
    with _phase(parts, "check"):
        return parts.checks.after_update(step, state)


def source_if_not_finite(parts: Parts, state: TrainState, batch: Batch, loss: LossReport, update: Update) -> str:
    """Where numbers that are not finite came first in a step; nothing of one that has none."""
    if not parts.not_finite.is_due(loss, update):
        return ""
    with _phase(parts, "check", is_steady=False):
        return parts.not_finite.find(batch, state)


@contextmanager
def _phase(parts: Parts, name: str, *, is_steady: bool = True) -> Iterator[None]:
    """Measured by the recorder, and told to whoever watches over this rank."""
    with parts.recorder.span(name), parts.heart.phase(name, is_steady=is_steady):
        yield
