import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from firstlight.base.report import EvalReport
from firstlight.config.monitor import MonitorConfig
from firstlight.observe.events import EventLog, read_events
from firstlight.observe.record import Record
from firstlight.observe.recorder import Instruments, Recorder, RunFacts, Taken
from tests.unit.observe.synthetic import TOKENS_PER_STEP, Bench, Clock, Kept, make_bench


def test_records_first_step_multiples_and_last_step() -> None:
    bench = make_bench(every=6)
    with bench.recorder.open(0, samples=0, tokens=0):
        for step in range(1, 21):
            bench.step(step)
    assert [record["step"] for record in bench.kept.steps] == [1, 6, 12, 18, 20]
    assert bench.kept.opened_at == [0]
    assert bench.kept.is_closed


def test_every_name_of_a_step_record_has_its_exact_value() -> None:
    bench = make_bench()
    with bench.recorder.open(5, samples=40, tokens=5 * TOKENS_PER_STEP):
        bench.step(6)
        for step in range(7, 11):
            bench.clock.advance(0.1)
            bench.step(step, applied=step != 8)
    record = bench.kept.steps[1]
    assert record == pytest.approx(
        {
            "step": 10,
            "samples": 80,
            "tokens": 10 * TOKENS_PER_STEP,
            "global_batch_size": 8,
            "sequence_length": TOKENS_PER_STEP // 8,
            "loss": 5.0,
            "loss/lm": 4.7,
            "loss/mtp": 5.1,
            "loss/balance": 1.02,
            "learning_rate": 1e-3,
            "grad_norm": 0.875,
            "expert_load/max_vio": 0.5,
            "step_seconds": 0.6,
            "tokens_per_second": TOKENS_PER_STEP / 0.6,
            "mfu": TOKENS_PER_STEP / 0.6 * 1e5 / 1e9,
            "seconds/data": 0.05,
            "seconds/forward_backward": 0.3,
            "seconds/optimizer": 0.15,
            "seconds/monitor": 0.0,
            "eta_seconds": 10 * 0.6,
            "skipped_steps": 1,
            "memory_bytes": 1_200_000_000,
            "elapsed_seconds": 2.9,
            "time": 1_700_000_102.9,
        }
    )


def test_pauses_are_measured_but_are_no_part_of_a_step() -> None:
    bench = make_bench(every=1)
    with bench.recorder.open(0, samples=0, tokens=0):
        bench.step(1)
        bench.spend("evaluate", 7.0)
        bench.spend("checkpoint", 2.0)
        bench.step(2)
    record = bench.kept.steps[1]
    assert record["step_seconds"] == pytest.approx(0.5)
    assert record["tokens_per_second"] == pytest.approx(TOKENS_PER_STEP / 0.5)
    assert record["seconds/evaluate"] == pytest.approx(7.0)
    assert record["seconds/checkpoint"] == pytest.approx(2.0)
    assert record["elapsed_seconds"] == pytest.approx(10.0)


def test_evaluation_has_loss_perplexity_and_bits_per_byte_at_its_place_in_training() -> None:
    bench = make_bench()
    with bench.recorder.open(0, samples=0, tokens=0):
        bench.step(1)
        bench.recorder.record(EvalReport(step=1, name="wiki", loss=2.0, tokens=1000, bytes_per_token=4.0))
        bench.recorder.record(EvalReport(step=1, name="code", loss=1.0, tokens=500))
    wiki, code = bench.kept.evaluations
    assert wiki["evaluate/wiki/perplexity"] == pytest.approx(7.389056)
    assert wiki["evaluate/wiki/bits_per_byte"] == pytest.approx(2.0 / 0.6931472 / 4.0)
    assert wiki["evaluate/wiki/perplexity_per_byte"] == pytest.approx(1.6487213)
    assert (wiki["step"], wiki["samples"], wiki["tokens"]) == (1, 8, TOKENS_PER_STEP)
    assert wiki["evaluate/wiki/tokens"] == 1000
    assert "evaluate/code/bits_per_byte" not in code


def test_evaluation_before_any_step_stands_at_the_restored_place() -> None:
    bench = make_bench()
    with bench.recorder.open(12, samples=96, tokens=999):
        bench.recorder.record(EvalReport(step=12, name="wiki", loss=900.0, tokens=10))
    assert bench.kept.evaluations[0]["tokens"] == 999
    assert bench.kept.evaluations[0]["evaluate/wiki/perplexity"] == float("inf")


def test_stop_in_the_middle_of_a_window_writes_what_was_measured() -> None:
    bench = make_bench()
    with bench.recorder.open(0, samples=0, tokens=0):
        for step in range(1, 4):
            bench.step(step, seconds=2.0)
    assert [record["step"] for record in bench.kept.steps] == [1, 3]
    assert bench.kept.steps[1]["step_seconds"] == pytest.approx(2.0)


def test_sinks_are_closed_after_an_error() -> None:
    bench = make_bench()
    with pytest.raises(ZeroDivisionError), bench.recorder.open(0, samples=0, tokens=0):
        raise ZeroDivisionError
    assert bench.kept.is_closed


def test_unknown_peak_means_no_mfu() -> None:
    bench = make_bench(peak=None)
    with bench.recorder.open(0, samples=0, tokens=0):
        bench.step(1)
    assert "mfu" not in bench.kept.steps[0]
    assert "tokens_per_second" in bench.kept.steps[0]


def test_sink_that_fails_is_left_behind_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Full(Kept):
        def write_step(self, record: Record, /) -> None:
            super().write_step(record)
            raise OSError(28, "No space left on device")

    full = Full()
    bench = make_bench(every=1, extra=full)
    with caplog.at_level(logging.WARNING, "firstlight"), bench.recorder.open(0, samples=0, tokens=0):
        bench.step(1)
        bench.step(2)
    assert len(full.steps) == 1
    assert full.is_closed
    assert [record["step"] for record in bench.kept.steps] == [1, 2]
    assert "No space left on device" in caplog.text


class Counted:
    """Measures that take a second, and remember what they were asked."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls: list[str] = []

    def expect(self) -> None:
        self.calls.append("expect")

    @contextmanager
    def span(self, _name: str) -> Iterator[None]:
        self.clock.advance(0.25)
        yield
        self.clock.advance(0.25)

    def take(self, own: Mapping[str, float]) -> Taken:
        self.calls.append("take")
        self.clock.advance(1.0)
        return Taken(
            figures={"memory_bytes": 7.0, "pipeline_bubble": 0.25}, ranks={"data_seconds": [own["seconds/data"]]}
        )


def test_measures_are_taken_at_recorded_steps_alone_and_announced_before_them() -> None:
    bench = make_bench(every=3)
    counted = Counted(bench.clock)
    recorder = Recorder(
        config=MonitorConfig(log_every_steps=3),
        sinks=[bench.kept],
        facts=RunFacts(
            total_steps=20, flops_per_token=lambda _length: 1.0, peak_flops_per_second=None, precision="fp32"
        ),
        instruments=Instruments(memory_bytes=lambda: 1, measures=counted),
        clock=bench.clock,
    )
    bench = Bench(clock=bench.clock, kept=bench.kept, recorder=recorder)
    with recorder.open(0, samples=0, tokens=0):
        for step in range(1, 6):
            bench.step(step)
    assert counted.calls == ["expect", "take", "expect", "take", "expect", "take"]
    assert [step for step, _ in bench.kept.ranks] == [1, 3, 5]
    assert bench.kept.steps[1]["memory_bytes"] == 7.0
    assert bench.kept.steps[1]["pipeline_bubble"] == 0.25
    # the second that measuring took is shown, and those of watching the spans, and they are no part of a step
    spans = len([name for name in bench.kept.steps[1] if name.startswith("seconds/")]) - 1
    assert bench.kept.steps[1]["seconds/monitor"] == pytest.approx(0.5 + 0.5 * spans)
    assert bench.kept.steps[1]["step_seconds"] == pytest.approx(0.5)


def test_what_happens_beside_the_steps_is_an_event(tmp_path: Path) -> None:
    bench = make_bench(events=EventLog(tmp_path / "events.jsonl"))
    with bench.recorder.open(5, samples=0, tokens=0):
        bench.step(6)
        bench.step(7, applied=False)
        bench.recorder.record(EvalReport(step=7, name="wiki", loss=2.0, tokens=10))
    found = [(event.kind, event.step) for event in read_events(tmp_path / "events.jsonl")]
    assert found == [("start", 5), ("skip", 7), ("evaluation", 7)]
