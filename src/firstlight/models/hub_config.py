"""Hugging Face's config.json beside our model section, as a table read both ways.

Every field of a config.json is a row: mapped to a key of ours, fixed at the one value that the decoder has, or ignored
for a stated reason. A field without a row is refused by its name: nothing is dropped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.base.errors import InputError
from firstlight.config.model import ModelConfig

Json = Mapping[str, Any]

REQUIRED = object()
"""The file must say it."""
LEFT = object()
"""Where the file says nothing or null, our section says nothing either, and its own default holds."""


class RefusedFieldError(Exception):
    """A value that the decoder has no part for; the message says which and what would do."""


def unchanged(value: Any) -> Any:
    """The value itself."""
    return value


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """One field, one key. `default` is what the file means by not saying it; `also` are other names of the field."""

    theirs: str
    ours: str
    default: Any = REQUIRED
    also: tuple[str, ...] = ()
    to_ours: Callable[[Any], Any] = unchanged
    to_theirs: Callable[[Any], Any] = unchanged

    @property
    def fields(self) -> tuple[str, ...]:
        """The names that this row answers for."""
        return (self.theirs, *self.also)

    def read(self, values: Json) -> Iterator[tuple[str, Any]]:
        """The key and its value."""
        said = [values[name] for name in self.fields if name in values]
        if not said and self.default is REQUIRED:
            raise RefusedFieldError(f"{self.theirs} is missing")
        value = said[0] if said else self.default
        if not (self.default is LEFT and value in (None, LEFT)):
            yield self.ours, self.to_ours(value)

    def write(self, model: ModelConfig) -> Json:
        """The field and its value; nothing where the section has no such key."""
        section: Any = model
        *parents, last = self.ours.split(".")
        for key in parents:
            section = getattr(section, key, None)
        return {self.theirs: self.to_theirs(getattr(section, last))} if hasattr(section, last) else {}


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Several fields that say one thing together."""

    fields: tuple[str, ...]
    ours: str
    to_ours: Callable[[Json], Any]
    to_theirs: Callable[[ModelConfig], Json]

    def read(self, values: Json) -> Iterator[tuple[str, Any]]:
        """The key and its value."""
        yield self.ours, self.to_ours(values)

    def write(self, model: ModelConfig) -> Json:
        """The fields and their values."""
        return self.to_theirs(model)


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A field of which the decoder has this value only; also what the file means by not saying it."""

    theirs: str
    value: Any

    @property
    def fields(self) -> tuple[str, ...]:
        """The name that this row answers for."""
        return (self.theirs,)

    def read(self, values: Json) -> Iterator[tuple[str, Any]]:
        """Nothing: only the value is checked."""
        value = values.get(self.theirs, self.value)
        if value not in (self.value, None):
            raise RefusedFieldError(f"{self.theirs} = {value!r} is not supported; only {self.value!r} is")
        yield from ()

    def write(self, model: ModelConfig) -> Json:  # noqa: ARG002  # the same for every model
        """The field and its value."""
        return {self.theirs: self.value}


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """Fields that say nothing about the decoder."""

    fields: tuple[str, ...]
    because: str

    def read(self, values: Json) -> Iterator[tuple[str, Any]]:  # noqa: ARG002  # not looked at
        """Nothing."""
        yield from ()

    def write(self, model: ModelConfig) -> Json:  # noqa: ARG002  # not written
        """Nothing."""
        return {}


ConfigRow = Mapped | Joint | Fixed | Ignored


def read_config(values: Json, rows: Sequence[ConfigRow], given: Mapping[str, Any]) -> dict[str, Any]:
    """The model section that `values` describe, as nested plain values; `given` are keys that the family settles.

    Raises InputError with every field that is refused, missing or unknown.
    """
    known = {name for row in rows for name in row.fields}
    faults = [f"{name} = {values[name]!r} is not known" for name in values if name not in known]
    found: dict[str, Any] = {}
    for path, value in given.items():
        _put(found, path, value)
    for row in rows:
        try:
            for path, value in row.read(values):
                _put(found, path, value)
        except RefusedFieldError as fault:
            faults.append(str(fault))
    if faults:
        raise InputError("config.json cannot be taken over:\n" + "\n".join(f"  {fault}" for fault in faults))
    return found


def write_config(model: ModelConfig, rows: Sequence[ConfigRow]) -> dict[str, Any]:
    """The fields of config.json that say what `model` is. Raises InputError where they cannot."""
    if model.logit_soft_cap is not None:
        raise InputError(
            f"model.logit_soft_cap = {model.logit_soft_cap} has no field in the config.json of {model.family}: weights "
            "without it would be another model; train with null to export them"
        )
    return {name: value for row in rows for name, value in row.write(model).items()}


def _put(section: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        section = section.setdefault(key, {})
    section[last] = value
