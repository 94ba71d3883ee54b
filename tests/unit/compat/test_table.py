"""The table of rows: one row a key, and what it points at is there."""

import typing
from typing import Any

import pytest
from pydantic import BaseModel

from firstlight.compat.old_file import Generation
from firstlight.compat.row import Outcome
from firstlight.compat.table import TABLE
from firstlight.config.schema import RunConfig

ROWS = [(generation, row) for generation, rows in TABLE.items() for row in rows]


def sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections inside a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in typing.get_args(annotation) for section in sections(part)]


def is_a_key(path: str) -> bool:
    """Whether our schema has it."""
    owners: list[type[BaseModel]] = [RunConfig]
    for key in path.split("."):
        fields = [owner.model_fields[key] for owner in owners if key in owner.model_fields]
        if not fields:
            return False
        owners = [section for field in fields for section in sections(field.annotation)]
    return True


@pytest.mark.parametrize("generation", Generation)
def test_no_key_has_two_rows(generation: Generation) -> None:
    keys = [row.key for row in TABLE[generation]]
    assert len(keys) > 150
    assert not {key for key in keys if keys.count(key) > 1}


def test_every_row_says_what_becomes_of_its_key() -> None:
    for _, row in ROWS:
        if row.outcome in (Outcome.RENAMED, Outcome.CONVERTED):
            assert row.fact
            assert row.to
        else:
            assert row.text


def test_what_a_row_points_at_is_in_our_schema() -> None:
    assert not is_a_key("model.no_such_key")
    assert not {row.to for _, row in ROWS if row.to and not is_a_key(row.to)}


def test_keys_that_mean_one_thing_become_one_key() -> None:
    meanings: dict[tuple[Generation, str], set[str]] = {}
    for generation, row in ROWS:
        if row.outcome is Outcome.RENAMED:
            meanings.setdefault((generation, row.fact), set()).add(row.to)
    assert not {fact: targets for fact, targets in meanings.items() if len(targets) > 1}
