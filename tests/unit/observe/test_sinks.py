import json
from pathlib import Path

import pytest
import torch

from firstlight.config.monitor import AlertConfig, MonitorConfig
from firstlight.observe.events import EVENTS_FILE, EventLog
from firstlight.observe.mindformers_lines import RunSize
from firstlight.observe.recorder import Instruments, Recorder, RunFacts
from firstlight.observe.sinks import sinks_for
from firstlight.parallel.device import peak_memory_bytes
from tests.unit.observe.synthetic import step_report

SIZE = RunSize(total_steps=2, global_batch_size=8, num_devices=1, flops_per_token=1e6)


def test_configured_sinks_write_into_the_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = MonitorConfig()
    recorder = Recorder(
        config=config,
        sinks=sinks_for(config, folder=tmp_path, size=SIZE, events=EventLog(tmp_path / EVENTS_FILE)),
        facts=RunFacts(
            total_steps=2, flops_per_token=lambda _length: 1e6, peak_flops_per_second=1e12, precision="fp32"
        ),
        instruments=Instruments(memory_bytes=lambda: peak_memory_bytes(torch.device("cpu"))),
    )
    with recorder.open(0, samples=0, tokens=0):
        recorder.record(step_report(1))
        recorder.record(step_report(2))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/2", "step 2/2"]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert records[0]["memory_bytes"] > 1_000_000
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_only_the_sinks_that_are_named(tmp_path: Path) -> None:
    def names(config: MonitorConfig) -> list[str]:
        sinks = sinks_for(config, folder=tmp_path, size=SIZE, events=EventLog(None))
        return [type(sink).__name__ for sink in sinks]

    assert names(MonitorConfig(sinks=("jsonl",))) == ["JsonLines"]
    alerting = MonitorConfig(sinks=("prometheus", "jsonl"), alerts=(AlertConfig(when="loss > 9"),))
    assert names(alerting) == ["Prometheus", "JsonLines", "Alerts"]


def test_console_in_the_lines_of_mindformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for style, beginning in (("mindformers", "{ Epoch:[  1/  1], step:["), ("mindformers_pynative", "{ step:[    1/")):
        config = MonitorConfig.model_validate({"sinks": ["console"], "console": style})
        (console,) = sinks_for(config, folder=tmp_path, size=SIZE, events=EventLog(None))
        console.write_step({"step": 1, "samples": 8, "loss": 3.0, "learning_rate": 1e-3, "grad_norm": 1.0})
        assert capsys.readouterr().out.startswith(beginning)
