"""The loop. It knows an engine, a checkpointer, a guard and a recorder, and nothing of what is behind them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from firstlight.base.heartbeat import Heart
from firstlight.base.report import StepReport
from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.observe.recorder import Recorder
from firstlight.parallel.engine import Engine
from firstlight.resilience.guard import Guard
from firstlight.resilience.verdict import Stop
from firstlight.train.evaluate import Evaluation
from firstlight.train.planted_faults import PlantedFaults
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
    """Take optimizer steps until all are done or the guard stops the run. The last state is always saved."""
    outcome = None
    with parts.guard.armed(), ExitStack() as opened:
        first_step = parts.checkpointer.restore(state) or 0
        opened.enter_context(parts.recorder.open(state.step, samples=state.samples, tokens=state.tokens))
        opened.enter_context(parts.heart.beating(state.step))
        evaluate_if_due(parts, state)
        while not state.finished() and outcome is None:
            report = train_step(parts, state)
            parts.recorder.record(report)
            parts.heart.stepped(state.step)
            verdict = parts.guard.judge(report)
            # A request to stop that comes with the last step has nothing left to stop.
            if isinstance(verdict, Stop) and not (verdict.is_request and state.finished()):
                outcome = Outcome(
                    first_step=first_step, step=state.step, reason=verdict.reason, exit_code=verdict.exit_code
                )
            else:
                evaluate_if_due(parts, state)
            keep(parts, state, is_last=outcome is not None or state.finished())
        with _phase(parts, "checkpoint", is_steady=False):
            parts.checkpointer.finish()
    return outcome or Outcome(first_step=first_step, step=state.step, reason="all steps are done")


def keep(parts: Parts, state: TrainState, *, is_last: bool) -> None:
    """Save the state on the disk, in memory, or not, as is due; the last one always on the disk."""
    if is_last or parts.checkpointer.due(state.step):
        with _phase(parts, "checkpoint", is_steady=False):  # it may wait for the save before it
            parts.checkpointer.save(state)
    if parts.snapshots is not None and not is_last and parts.snapshots.due(state.step):
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
    with _phase(parts, "data"):
        parts.faults.before_step(step)
        batch = next(state.data)
    with _phase(parts, "forward_backward"):
        loss = parts.engine.forward_backward(batch)
    learning_rate = state.optimizer.learning_rate
    parts.faults.before_update(step)
    with _phase(parts, "optimizer"):
        update = state.optimizer.step()
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
    )


@contextmanager
def _phase(parts: Parts, name: str, *, is_steady: bool = True) -> Iterator[None]:
    """Measured by the recorder, and told to whoever watches over this rank."""
    with parts.recorder.span(name), parts.heart.phase(name, is_steady=is_steady):
        yield
