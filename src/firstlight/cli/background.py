"""A launcher that returns at once: another process of its own session goes on, and writes to a log."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from firstlight.cli.worker_logs import make_folder

_EARLY_SECONDS = 5.0
"""What fails within this time is still said here."""


def start_in_background(arguments: Sequence[str], path: Path) -> int:
    """Start `firstlight ARGUMENTS`; 0 when it runs, or its exit code and what it said when it has ended with one."""
    make_folder(path.parent)
    with path.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "firstlight", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = process.wait(timeout=_EARLY_SECONDS)
    except subprocess.TimeoutExpired:
        return 0
    if code:
        typer.echo(path.read_text(encoding="utf-8", errors="replace").rstrip("\n"), err=True)
    return code
