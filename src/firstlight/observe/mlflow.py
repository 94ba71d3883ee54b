"""MLflow as a sink: figures under the records' own names, by step. Needs firstlight[mlflow]."""

import math
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError
from firstlight.config.monitor import MlflowConfig
from firstlight.observe.record import RankTable, Record

RUN_ID_FILE = "mlflow-run-id"


class Mlflow:
    """One MLflow run for the run's folder; a restart adds to the same one."""

    def __init__(self, config: MlflowConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._client: Any = None
        self._run_id = ""

    def open(self, _step: int, /) -> None:
        """Begin or continue the run. Raises InputError when the package is missing."""
        try:
            from mlflow import MlflowClient
        except ModuleNotFoundError:
            raise InputError("monitor.sinks: mlflow is not installed; use pip install 'firstlight[mlflow]'") from None
        self._folder.mkdir(parents=True, exist_ok=True)
        uri = self._config.tracking_uri or f"sqlite:///{self._folder.absolute() / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        kept = self._folder / RUN_ID_FILE
        if kept.exists():
            self._run_id = kept.read_text().strip()
            return
        experiment = self._client.get_experiment_by_name(self._config.experiment)
        experiment_id = (
            experiment.experiment_id if experiment else self._client.create_experiment(self._config.experiment)
        )
        self._run_id = self._client.create_run(experiment_id, run_name=self._folder.name).info.run_id
        kept.write_text(self._run_id + "\n")

    def write_step(self, record: Record, /) -> None:
        """Log a step's figures."""
        self._log(record)

    def write_evaluation(self, record: Record, /) -> None:
        """Log an evaluation's figures."""
        self._log({**{name: value for name, value in record.items() if name.startswith("evaluate/")}, **_place(record)})

    def write_ranks(self, _step: int, _table: RankTable, /) -> None:
        """Not logged: the records have the slowest rank."""

    def close(self) -> None:
        """Mark the run as finished; one that goes on continues it all the same."""
        if self._client is not None:
            self._client.set_terminated(self._run_id)
            self._client = None

    def _log(self, record: Record) -> None:
        from mlflow.entities import Metric

        milliseconds, step = int(1000 * record["time"]), int(record["step"])
        metrics = [
            Metric(name, value, milliseconds, step)
            for name, value in record.items()
            if name not in ("step", "time") and math.isfinite(value)
        ]
        self._client.log_batch(self._run_id, metrics=metrics)


def _place(record: Record) -> dict[str, float]:
    return {"step": record["step"], "time": record["time"]}
