"""A tiny run in this process: no second interpreter, so no second loading of torch."""

import contextlib
from pathlib import Path

from firstlight.base.world import World
from firstlight.config.load import load
from firstlight.config.schema import RunConfig
from firstlight.train.loop import Outcome
from firstlight.train.train import train
from tests.runs import TinyRun


def config_of(run: TinyRun, *overrides: str) -> RunConfig:
    """The run's configuration, its paths within its folder."""
    with contextlib.chdir(run.folder):
        return load(run.folder / "run.yaml", ["monitor.sinks=[jsonl]", *overrides]).config


def train_here(run: TinyRun, *overrides: str) -> Outcome:
    """Train the run as the only process."""
    return train(config_of(run, *overrides), World())


def times_of(folder: Path) -> dict[str, int]:
    """When each file below `folder` was last written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
