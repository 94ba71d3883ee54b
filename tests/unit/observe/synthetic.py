"""A clock that only moves when told to, and runs that are recorded by it."""

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

from firstlight.base.report import EvalReport, LossReport, StepReport, Update
from firstlight.config.monitor import MonitorConfig
from firstlight.observe.events import EventLog
from firstlight.observe.jsonl import JsonLines
from firstlight.observe.record import RankTable, Record
from firstlight.observe.recorder import Instruments, Recorder, RunFacts
from firstlight.observe.sink import Sink

SAMPLES_PER_STEP = 8
TOKENS_PER_STEP = 2048


@dataclass
class Clock:
    """Seconds that pass only when told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.opened_at: list[int] = []
        self.steps: list[Record] = []
        self.evaluations: list[Record] = []
        self.ranks: list[tuple[int, RankTable]] = []
        self.is_closed = False

    def open(self, step: int, /) -> None:
        self.opened_at.append(step)

    def write_step(self, record: Record, /) -> None:
        self.steps.append(record)

    def write_evaluation(self, record: Record, /) -> None:
        self.evaluations.append(record)

    def write_ranks(self, step: int, table: RankTable, /) -> None:
        self.ranks.append((step, table))

    def close(self) -> None:
        self.is_closed = True


def step_report(step: int, *, loss: float = 5.0, applied: bool = True, is_sparse: bool = True) -> StepReport:
    parts = {"lm": loss - 0.3, "mtp": loss + 0.1, "balance": 1.02} if is_sparse else {"lm": loss}
    expert_load = {"layers.1": 0.25, "layers.2": 0.5} if is_sparse else {}
    return StepReport(
        step=step,
        loss=LossReport(total=loss, parts=parts, tokens=TOKENS_PER_STEP, expert_load=expert_load),
        update=Update(applied=applied, grad_norm=0.875),
        learning_rate=1e-3,
        samples=SAMPLES_PER_STEP * step,
        tokens=TOKENS_PER_STEP * step,
        global_batch_size=SAMPLES_PER_STEP,
        sequence_length=TOKENS_PER_STEP // SAMPLES_PER_STEP,
    )


@dataclass
class Bench:
    """A recorder on a fake clock."""

    clock: Clock
    kept: Kept
    recorder: Recorder

    def spend(self, name: str, seconds: float) -> None:
        with self.recorder.span(name):
            self.clock.advance(seconds)

    def step(self, step: int, *, seconds: float = 0.5, applied: bool = True) -> None:
        for name, share in (("data", 0.1), ("forward_backward", 0.6), ("optimizer", 0.3)):
            self.spend(name, seconds * share)
        self.recorder.record(step_report(step, applied=applied))


def make_bench(
    *, every: int = 5, peak: float | None = 1e9, extra: Sink | None = None, events: EventLog | None = None
) -> Bench:
    """A recorder that logs every `every` steps of 20, with a sink that keeps and perhaps an `extra` one before it."""
    clock, kept = Clock(), Kept()
    recorder = Recorder(
        config=MonitorConfig(log_every_steps=every),
        sinks=[extra, kept] if extra else [kept],
        facts=RunFacts(
            total_steps=20, flops_per_token=lambda _length: 1e5, peak_flops_per_second=peak, precision="fp32"
        ),
        instruments=Instruments(memory_bytes=lambda: 1_200_000_000),
        events=events,
        clock=clock,
        wall_clock=lambda: 1_700_000_000 + clock.now,
    )
    return Bench(clock=clock, kept=kept, recorder=recorder)


def record_run(folder: Path, *, steps: int = 400, is_sparse: bool = True, evaluate: bool = True, seed: int = 0) -> Path:
    """Record a made-up but plausible run into `folder`, with the files that an assembler leaves beside it."""
    random_source = random.Random(seed)
    clock = Clock()
    recorder = Recorder(
        config=MonitorConfig(log_every_steps=10),
        sinks=[JsonLines(folder / "metrics.jsonl")],
        facts=RunFacts(
            total_steps=steps, flops_per_token=lambda _length: 4e7, peak_flops_per_second=3e11, precision="fp32"
        ),
        instruments=Instruments(memory_bytes=lambda: 1_100_000_000 + random_source.randrange(90_000_000)),
        clock=clock,
        wall_clock=lambda: 1_760_000_000 + clock.now,
    )
    with recorder.open(0, samples=0, tokens=0):
        for step in range(1, steps + 1):
            _one_step(recorder, clock, random_source, step=step, steps=steps, is_sparse=is_sparse)
            if evaluate and step % 100 == 0:
                _one_evaluation(recorder, clock, step=step)
    write_facts(folder, steps=steps)
    return folder


def _one_step(
    recorder: Recorder, clock: Clock, random_source: random.Random, *, step: int, steps: int, is_sparse: bool
) -> None:
    warm_up = 4.0 if step == 1 else 1.0
    for name, seconds in (("data", 0.02), ("forward_backward", 0.5), ("optimizer", 0.08)):
        with recorder.span(name):
            clock.advance(seconds * warm_up * random_source.uniform(0.9, 1.15))
    clock.advance(0.015)
    lm = _lm_loss(step) + random_source.gauss(0, 0.06)
    parts = {"lm": lm, "mtp": lm + 0.35, "balance": 1.0 + 0.3 * math.exp(-step / 60)} if is_sparse else {"lm": lm}
    total = lm + (0.3 * parts["mtp"] + 1e-4 * parts["balance"] if is_sparse else 0.0)
    max_vio = 0.2 + 2 * math.exp(-step / 50) + random_source.uniform(0, 0.1)
    report = StepReport(
        step=step,
        loss=LossReport(
            total=total, parts=parts, tokens=TOKENS_PER_STEP, expert_load={"layers.1": max_vio} if is_sparse else {}
        ),
        update=Update(applied=step != 137, grad_norm=0.4 + 3 * math.exp(-step / 25) + random_source.uniform(0, 0.2)),
        learning_rate=1e-3 * min(step / 40, 0.1 + 0.45 * (1 + math.cos(math.pi * step / steps))),
        samples=SAMPLES_PER_STEP * step,
        tokens=TOKENS_PER_STEP * step,
        global_batch_size=SAMPLES_PER_STEP,
        sequence_length=TOKENS_PER_STEP // SAMPLES_PER_STEP,
    )
    recorder.record(report)


def _one_evaluation(recorder: Recorder, clock: Clock, *, step: int) -> None:
    with recorder.span("evaluate"):
        clock.advance(3.0)
        loss = _lm_loss(step) + 0.05
        recorder.record(EvalReport(step=step, name="stdlib", loss=loss, tokens=65536, bytes_per_token=3.7))
    with recorder.span("checkpoint"):
        clock.advance(1.2)


def _lm_loss(step: int) -> float:
    return 2.9 + 6.1 * math.exp(-step / 45) + 0.6 * math.exp(-step / 400)


def write_facts(folder: Path, *, steps: int) -> None:
    """What the assembler leaves in a run's folder beside the metrics."""
    facts = {
        "parameters": 12_345_678,
        "activated_parameters": 4_200_000,
        "world_size": 4,
        "device": "cpu",
        "precision": "fp32 matrix products, measured",
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "is_dirty": True},
        "versions": {"firstlight": "0.1.0", "torch": "2.13.0", "python": "3.11"},
    }
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "config.yaml").write_text(
        "model:\n  family: deepseek_v3\n  vocab_size: 8192\n  hidden_size: 256\n"
        f"training:\n  steps: {steps}\n  global_batch_size: 8\n"
    )
    (folder / "sample.txt").write_text(
        "def read_lines(path):\n    with open(path) as file:\n        for line in file:\n            yield line\n"
    )
