"""The folders of published checkpoints: their names, and which there are."""

import re
from pathlib import Path

_STEP_FOLDER = re.compile(r"step-(\d{8})")


def step_folder(step: int) -> str:
    """The name of a step's folder."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step of a folder with such a name."""
    return int(folder.name.removeprefix("step-"))


def candidates(folder: Path) -> list[Path]:
    """The published checkpoints of a run, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((entry for entry in folder.iterdir() if _STEP_FOLDER.fullmatch(entry.name)), reverse=True)
