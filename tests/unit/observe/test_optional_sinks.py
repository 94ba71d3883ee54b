"""Sinks whose packages are extras: local, without any service. Skipped where the package is not installed."""

from pathlib import Path

import pytest

from firstlight.config.monitor import MlflowConfig, WandbConfig
from firstlight.observe.mlflow import Mlflow
from firstlight.observe.wandb import WeightsAndBiases

RECORDS = [
    {"step": 1.0, "loss": 5.0, "time": 1e9},
    {"step": 2.0, "loss": float("nan"), "grad_norm": 1.0, "time": 1e9 + 1},
]


def test_mlflow_keeps_a_run_over_a_restart(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra firstlight[mlflow] is not installed")
    for record in RECORDS:
        sink = Mlflow(MlflowConfig(), tmp_path / "run")
        sink.open(int(record["step"]) - 1)
        sink.write_step(record)
        sink.write_evaluation({**record, "evaluate/wiki/loss": 4.0})
        sink.write_ranks(1, {})
        sink.close()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("firstlight").experiment_id])
    assert run.data.metrics == {"loss": 5.0, "grad_norm": 1.0, "evaluate/wiki/loss": 4.0}
    history = client.get_metric_history(run.info.run_id, "evaluate/wiki/loss")
    assert [point.step for point in history] == [1, 2]
    assert run.info.status == "FINISHED"


def test_wandb_writes_into_the_run_folder_when_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra firstlight[wandb] is not installed")
    sink = WeightsAndBiases(WandbConfig(), tmp_path / "run")
    sink.open(0)
    for record in RECORDS:
        sink.write_step(record)
    sink.write_evaluation({"step": 2.0, "evaluate/wiki/loss": 4.0, "time": 1e9})
    sink.close()
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert b"evaluate/wiki/loss" in content
    assert b"grad_norm" in content
