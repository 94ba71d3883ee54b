"""A row of the translation table: what becomes of one key of a MindFormers file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

OFF: tuple[Any, ...] = (None, False, "", 0, 0.0)
"""Values with which a key asks for nothing."""


class Outcome(StrEnum):
    """What becomes of a key."""

    RENAMED = "renamed"
    CONVERTED = "converted"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One key. Keys with the same `fact` mean the same thing, and contradict each other when their values differ."""

    key: str
    """Dotted, as it is written; a last part `**` stands for all that is below."""
    outcome: Outcome
    fact: str = ""
    to: str = ""
    """The key here."""
    text: str = ""
    """How it is converted, or why it is ignored or refused."""
    harmless: tuple[Any, ...] = ()
    """Values of a refused key that ask for nothing."""


Rows = tuple[Row, ...]


def renamed(fact: str, to: str, *names: str) -> Rows:
    """Keys whose value is taken over as it is."""
    return tuple(Row(key=name, outcome=Outcome.RENAMED, fact=fact, to=to) for name in names)


def converted(fact: str, to: str, how: str, *names: str) -> Rows:
    """Keys whose value becomes something else here."""
    return tuple(Row(key=name, outcome=Outcome.CONVERTED, fact=fact, to=to, text=how) for name in names)


def ignored(because: str, *names: str) -> Rows:
    """Keys without effect here."""
    return tuple(Row(key=name, outcome=Outcome.IGNORED, text=because) for name in names)


def refused(because: str, *names: str, unless: Sequence[Any] = OFF) -> Rows:
    """Keys that ask for what there is not, unless their value is one of `unless`."""
    return tuple(Row(key=name, outcome=Outcome.REFUSED, text=because, harmless=tuple(unless)) for name in names)


def under(section: str, rows: Rows) -> Rows:
    """The rows of a section, with their whole keys."""
    return tuple(replace(row, key=f"{section}.{row.key}") for row in rows)
