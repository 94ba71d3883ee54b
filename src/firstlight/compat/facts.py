"""What a MindFormers file says, whatever its spelling: facts by name. Contradictions and refusals are collected."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from firstlight.compat.match import Unknown, Written
from firstlight.compat.old_file import Generation
from firstlight.compat.row import Outcome

_SCORINGS: Mapping[Any, str] = {True: "sigmoid", False: "softmax"}


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something to be said aloud, beside a section of the translated file."""

    section: str
    text: str


@dataclass(kw_only=True)
class Facts:
    """Values by fact, with their places; what was ignored, what is to be said, and what is wrong."""

    generation: Generation
    found: dict[str, Written] = field(default_factory=dict)
    ignored: list[Written] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    registered: Mapping[str, str] = field(default_factory=dict)
    """Families by the names, in small letters, of model classes of the user's own."""

    def take(self, written: Written | Unknown) -> None:
        """Sort one key in."""
        if isinstance(written, Unknown):
            self.faults.append(written.message)
            return
        row = written.row
        if row.outcome is Outcome.IGNORED:
            self.ignored.append(written)
        elif row.outcome is Outcome.REFUSED:
            if not _is_harmless(written.value, row.harmless):
                self.faults.append(f"{shown(written)}: {row.text}{_place(written)}")
        else:
            self._keep(written)

    def _keep(self, written: Written) -> None:
        earlier = self.found.get(written.row.fact)
        if earlier is None:
            self.found[written.row.fact] = written
        elif _alike(earlier) != _alike(written):
            self.faults.append(
                f"{shown(earlier)}{_place(earlier)} and {shown(written)}{_place(written)} say the same thing "
                "differently; leave one out"
            )

    def has(self, fact: str) -> bool:
        """Whether it is written, with a value."""
        return fact in self.found and self.found[fact].value is not None

    def value(self, fact: str, default: Any = None) -> Any:
        """As written, or the default."""
        return self.found[fact].value if self.has(fact) else default

    def is_on(self, fact: str, *, default: bool = False) -> bool:
        """A question's answer; text is read as MindFormers' command line reads it."""
        value = self.value(fact, default)
        if isinstance(value, str):
            return value.strip().lower() in ("true", "1", "yes", "on")
        return bool(value)

    def number(self, fact: str, default: float) -> float:
        """A number; text such as 1e-5 is one in YAML 1.2."""
        value = self.value(fact, default)
        try:
            return float(value)
        except (TypeError, ValueError):
            self.refuse(fact, "is no number")
            return float(default)

    def count(self, fact: str, default: int) -> int:
        """A whole number."""
        number = self.number(fact, default)
        if not number.is_integer():
            self.refuse(fact, "is no whole number")
            return default
        return int(number)

    def words(self, fact: str) -> list[str]:
        """A text, or a list of them, as a list."""
        value = self.value(fact, [])
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]

    def note(self, section: str, text: str, *facts: str) -> None:
        """Say `text` beside `section`, with the places of `facts`."""
        places = [self.found[fact].origin for fact in facts if fact in self.found]
        self.notes.append(Note(section=section, text=text + (f" ({', '.join(places)})" if any(places) else "")))

    def refuse(self, fact: str, because: str) -> None:
        """What is written for `fact` cannot be translated."""
        written = self.found.get(fact)
        self.faults.append(f"{shown(written)} {because}{_place(written)}" if written else f"{fact} {because}")


def shown(written: Written) -> str:
    """`key = value`, long values cut."""
    text = str(written.value)
    return f"{written.key} = {text if len(text) <= 60 else text[:57] + '...'}"


def _place(written: Written) -> str:
    return f" ({written.origin})" if written.origin else ""


def _is_harmless(value: Any, harmless: tuple[Any, ...]) -> bool:
    if isinstance(value, dict | list) and not value:
        return True
    lowered = value.lower() if isinstance(value, str) else value
    return any(lowered == (one.lower() if isinstance(one, str) else one) for one in harmless)


def _alike(written: Written) -> Any:
    """A value as it is compared with another spelling's."""
    value = written.value
    if written.row.fact == "scoring":
        value = _SCORINGS.get(value, value) if isinstance(value, bool) else value
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value.strip().lower() if isinstance(value, str) else value
