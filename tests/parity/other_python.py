"""Other projects' code, run by the interpreter of the environment that it is installed in."""

import os
import subprocess
from pathlib import Path

import pytest


def interpreter(variable: str, package: str) -> str:
    """The interpreter that the environment variable names; the test is skipped where it is not set."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} does not name a python that has {package}; see docs/development/interop.md")
    return python


def run(python: str, program: str, *arguments: Path | str) -> None:
    """Run a program with these arguments; a failure shows what it printed."""
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
