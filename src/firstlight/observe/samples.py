"""Texts that the model writes while it trains, a file for each step at which it does."""

import os
from collections.abc import Sequence
from pathlib import Path

from firstlight.base.log import get_logger

BETWEEN = "\n\n----\n\n"
"""Stands between the texts of several prompts."""


def write_samples(folder: Path, step: int, texts: Sequence[str]) -> None:
    """Write sample-STEP.txt. A file that cannot be written is named in the log, and the run goes on."""
    path = folder / f"sample-{step:08d}.txt"
    unfinished = path.with_suffix(".unfinished")
    try:
        # a page that follows the run must not see half of it
        unfinished.write_text(BETWEEN.join(texts), encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        get_logger().warning("%s cannot be written, the run goes on: %s", path, error)
