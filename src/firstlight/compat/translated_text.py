"""The translated file as text: sections, what is to be known beside them, and what of the old file is left out."""

from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from firstlight.compat.facts import Facts, shown
from firstlight.compat.old_file import OldFile
from firstlight.config.load import dump_section

_WIDTH = 118


def write_text(old: OldFile, facts: Facts, values: Mapping[str, Any], world_size: int | None) -> str:
    """YAML that `firstlight train` reads, with comments."""
    lines = _comment(_head(old, world_size))
    for section, content in values.items():
        for note in facts.notes:
            if note.section == section:
                lines += _comment(note.text)
        lines += dump_section({section: content}).splitlines()
    for note in facts.notes:
        if note.section not in values:
            lines += _comment(note.text)
    return "\n".join([*lines, *_left_out(facts)]) + "\n"


def _head(old: OldFile, world_size: int | None) -> str:
    processes = f", for {world_size} process{'es' if world_size > 1 else ''}" if world_size else ""
    return f"Translated from {', '.join(old.texts)}: keys of MindFormers, {old.generation.value} schema{processes}."


def _comment(text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_long_words=False)


def _left_out(facts: Facts) -> Iterator[str]:
    """Ignored keys, by the reason."""
    if not facts.ignored:
        return
    yield "# Left out:"
    reasons = dict.fromkeys(written.row.text for written in facts.ignored)
    for reason in reasons:
        keys = "; ".join(_short(shown(written)) for written in facts.ignored if written.row.text == reason)
        yield from wrap(
            f"{reason}: {keys}", _WIDTH, initial_indent="# - ", subsequent_indent="#   ", break_long_words=False
        )


def _short(text: str) -> str:
    return " ".join(text.split())
