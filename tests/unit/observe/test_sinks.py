import json
from pathlib import Path

import pytest
import torch

from firstlight.config.training import MonitorConfig
from firstlight.observe.recorder import Recorder, RunFacts
from firstlight.observe.sinks import sinks_for
from firstlight.parallel.device import peak_memory_bytes
from tests.unit.observe.synthetic import step_report


def test_configured_sinks_write_into_the_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = MonitorConfig()
    recorder = Recorder(
        config=config,
        sinks=sinks_for(config, folder=tmp_path, total_steps=2),
        facts=RunFacts(
            total_steps=2, flops_per_token=lambda _length: 1e6, peak_flops_per_second=1e12, precision="fp32"
        ),
        memory_bytes=lambda: peak_memory_bytes(torch.device("cpu")),
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
    names = [type(sink).__name__ for sink in sinks_for(MonitorConfig(sinks=("jsonl",)), folder=tmp_path, total_steps=1)]
    assert names == ["JsonLines"]
