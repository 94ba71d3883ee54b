"""Requests to stop that are no signals: a file in the run's folder, and the configuration."""

from collections.abc import Callable
from pathlib import Path


def stop_requests(file: Path, *, stop_at_step: int) -> Callable[[int], str | None]:
    """What asks the run to stop after a step: `file` while it exists, and `stop_at_step` unless it is 0."""

    def asks(step: int) -> str | None:
        if step == stop_at_step:
            return "training.stop_at_step"
        return f"{file} (remove it to go on)" if file.exists() else None

    return asks
