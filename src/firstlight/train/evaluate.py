"""Loss on held-out text, the same whatever the number of ranks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from firstlight.base.peers import Peers
from firstlight.base.report import EvalReport
from firstlight.config.timeline import Timeline
from firstlight.data.samples import Dataset, Samples
from firstlight.data.stream import JOINED, Batch, Masking, OfRun
from firstlight.parallel.engine import Engine


@dataclass(frozen=True, kw_only=True)
class HeldOutSet:
    """Samples to evaluate on, and how many bytes of text a token stands for where that is known.

    `datasets`: the set cut to the sequence length of each phase of the run.
    """

    name: str
    datasets: Sequence[Dataset]
    bytes_per_token: float | None


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """When and how much: `every_steps` 0 is only after `last_step`; `max_samples` of each set, `batch_size` at once.

    The model is evaluated in the phase of `timeline` that trained it last. `blends`: of each the shares of its sets.
    """

    every_steps: int
    last_step: int
    max_samples: int
    batch_size: int
    masking: Masking = JOINED
    timeline: Timeline = Timeline.even()
    blends: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Portion:
    """Which of `data_size` portions of the samples this rank takes, and all ranks."""

    peers: Peers
    data_rank: int = 0
    data_size: int = 1


class Evaluation(Protocol):
    """Something that the model is asked for after some steps. Both calls are the same on every rank."""

    def due(self, step: int) -> bool:
        """Whether to ask after `step`."""

    def run(self, step: int) -> list[EvalReport]:
        """Ask, and report. Collective."""


class Evaluations:
    """Several of them, each when it is due."""

    def __init__(self, parts: Sequence[Evaluation]) -> None:
        self._parts = parts

    def due(self, step: int) -> bool:
        """Whether one of them is due after `step`."""
        return any(part.due(step) for part in self._parts)

    def run(self, step: int) -> list[EvalReport]:
        """The reports of those that are due. Collective."""
        return [report for part in self._parts if part.due(step) for report in part.run(step)]


class Evaluator:
    """Runs the model over held-out sets, samples dealt out over the ranks."""

    def __init__(self, engine: Engine, sets: Sequence[HeldOutSet], plan: EvaluationPlan, mine: Portion) -> None:
        self._engine = engine
        self._sets = sets
        self._plan = plan
        self._mine = mine

    def due(self, step: int) -> bool:
        """Whether to evaluate after `step`."""
        if not self._sets or step == 0:
            return False
        every = self._plan.every_steps
        return step == self._plan.last_step or (every > 0 and step % every == 0)

    def run(self, step: int) -> list[EvalReport]:
        """The mean next-token loss of each set, then of each blend by its shares. Collective."""
        reports = {held_out.name: self._evaluate(held_out, step) for held_out in self._sets}
        blends = [blended(name, shares, reports) for name, shares in self._plan.blends.items()]
        return [*reports.values(), *blends]

    def _evaluate(self, held_out: HeldOutSet, step: int) -> EvalReport:
        sums = [0.0, 0.0]
        phase = self._plan.timeline.at(max(0, step - 1)).phase
        for batch in self._batches(held_out.datasets[phase], phase):
            loss, tokens = self._engine.evaluate(batch)
            sums = [sums[0] + loss, sums[1] + tokens]
        loss, tokens = self._mine.peers.sum(sums)
        return EvalReport(
            step=step,
            name=held_out.name,
            loss=loss / tokens,
            tokens=round(tokens),
            bytes_per_token=held_out.bytes_per_token,
        )

    def _batches(self, dataset: Dataset, phase: int) -> Iterator[Batch]:
        """This rank's share. Every rank gets equally many batches of one shape, since sharded models run in step;
        what is too much is masked out."""
        num_samples = min(len(dataset), self._plan.max_samples)
        size, ranks = self._plan.batch_size, self._mine.data_size
        # Spread over the whole set: its first samples may all be of one document.
        chosen = [number * len(dataset) // num_samples for number in range(num_samples)]
        mine = chosen[self._mine.data_rank :: ranks]
        for start in range(0, math.ceil(num_samples / ranks), size):
            numbers = np.array(mine[start : start + size], np.int64)
            samples = Samples.empty(size, dataset.sequence_length)
            dataset.read(numbers, samples, np.arange(len(numbers)))
            yield Batch.of(samples, self._plan.masking, OfRun(samples=size * ranks, phase=phase))


def blended(name: str, shares: Mapping[str, float], reports: Mapping[str, EvalReport]) -> EvalReport:
    """The report of a blend: losses and bytes of a token as its sources have them, by their shares."""
    parts = [(share, reports[source]) for source, share in shares.items()]
    sizes = [share * report.bytes_per_token for share, report in parts if report.bytes_per_token]
    return EvalReport(
        step=parts[0][1].step,
        name=name,
        loss=sum(share * report.loss for share, report in parts),
        tokens=sum(report.tokens for _, report in parts),
        bytes_per_token=sum(sizes) if len(sizes) == len(parts) else None,
    )
