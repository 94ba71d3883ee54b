"""A configuration file to break, and what is said about it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.config.load import Loaded, load
from tests.runs import TINY_YAML


def written(folder: Path, text: str = TINY_YAML) -> Path:
    """The path of run.yaml with this text."""
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(old: str, new: str, text: str = TINY_YAML) -> str:
    """The text with `new` in the only place of `old`."""
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    return text.replace(old, new)


def place(text: str, part: str) -> str:
    """The place of the only line with `part`, as messages show it."""
    lines = [number for number, line in enumerate(text.splitlines(), start=1) if part in line]
    assert len(lines) == 1, f"{part!r} is in the lines {lines}"
    return f"run.yaml:{lines[0]}"


def loaded(folder: Path, text: str = TINY_YAML, overrides: Sequence[str] = ()) -> Loaded:
    """The configuration of this text."""
    return load(written(folder, text), overrides)


def refusal(folder: Path, text: str = TINY_YAML, overrides: Sequence[str] = ()) -> str:
    """The message with which this text is refused."""
    with pytest.raises(InputError) as caught:
        load(written(folder, text), overrides)
    return str(caught.value)


def faults(folder: Path, text: str = TINY_YAML, overrides: Sequence[str] = ()) -> list[str]:
    """The lines of that message, one a fault, after checking that its head counts them."""
    head, *lines = refusal(folder, text, overrides).splitlines()
    count = f"{len(lines)} fault{'s' if len(lines) > 1 else ''}:"
    assert head == f"{folder / 'run.yaml'} has {count}"
    return [line.removeprefix("  ") for line in lines]
