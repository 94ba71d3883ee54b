import io
import math

from rich.console import Console as Terminal

from firstlight.observe.events import Event
from firstlight.observe.panel import RunPanel, sparkline

RECORD = {
    "step": 120.0,
    "loss": 3.25,
    "learning_rate": 1e-3,
    "grad_norm": 0.5,
    "tokens_per_second": 12_345.0,
    "step_seconds": 0.5,
    "seconds/data": 0.05,
    "mfu": 0.41,
    "memory_bytes": 1.2e9,
    "eta_seconds": 92.0,
    "elapsed_seconds": 60.0,
}


def drawn(panel: RunPanel) -> str:
    stream = io.StringIO()
    Terminal(file=stream, width=120, force_terminal=False).print(panel)
    return stream.getvalue()


def test_a_run_at_a_glance() -> None:
    panel = RunPanel(total_steps=400, title="run", clock=lambda: 1090.0)
    for step in range(1, 121):
        panel.take_step({**RECORD, "step": step, "loss": 9 - step / 20})
    panel.take_step(RECORD)
    panel.take_evaluation({"step": 120, "evaluate/wiki/loss": 3.5})
    panel.take_event(Event(kind="checkpoint", step=100, text="step-100 saved", time=1000.0))
    panel.take_event(Event(kind="alert", step=110, text="loss > 3", time=1050.0))
    text = drawn(panel)
    for part in (
        "step 120 of 400",
        "30%  1m00s gone  eta 1m32s",
        "loss 3.2500",
        "wiki 3.5000",
        "speed 12.3K tokens/s",
        "step 500 ms",
        "MFU 41%",
        "memory 1.2 GB",
        "data wait 10%",
        "last checkpoint step 100, 1m30s ago",
        "alert loss > 3",
    ):
        assert part in text, text
    assert "█▇" in text


def test_before_the_first_record_there_is_the_progress_alone() -> None:
    panel = RunPanel(total_steps=400)
    panel.begin(20)
    assert "step 20 of 400" in drawn(panel)
    assert "loss" not in drawn(panel)


def test_sparkline() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1, math.nan, 8]) == "▁ █"
    assert sparkline([2, 2]) == "▁▁"
    assert sparkline([math.nan]) == " "
    assert len(sparkline([float(n) for n in range(1000)], width=40)) == 40
