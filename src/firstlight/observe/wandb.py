"""Weights & Biases as a sink: figures under the records' own names, by step. Needs firstlight[wandb]."""

import hashlib
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError
from firstlight.config.monitor import WandbConfig
from firstlight.observe.record import RankTable, Record


class WeightsAndBiases:
    """One run of the project; offline it lies in the run's folder, for `wandb sync`. A restart adds to the same run."""

    def __init__(self, config: WandbConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._run: Any = None

    def open(self, _step: int, /) -> None:
        """Begin or continue the run. Raises InputError when the package is missing."""
        try:
            import wandb
        except ModuleNotFoundError:
            raise InputError("monitor.sinks: wandb is not installed; use pip install 'firstlight[wandb]'") from None
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._config.project,
            name=self._config.name or self._folder.name,
            id=_identity(self._folder),
            resume="allow",
            dir=str(self._folder),
            mode=self._config.mode,
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )
        # charts over the run's own steps: wandb's counter cannot go back after a restart
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write_step(self, record: Record, /) -> None:
        """Log a step's figures."""
        self._run.log(dict(record))

    def write_evaluation(self, record: Record, /) -> None:
        """Log an evaluation's figures."""
        self._run.log(dict(record))

    def write_ranks(self, _step: int, _table: RankTable, /) -> None:
        """Not logged: the records have the slowest rank."""

    def close(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _identity(folder: Path) -> str:
    """The same for every start of a run: the place of its folder."""
    return hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
