"""Every leaf of a MindFormers file to its row; what has none is an error that names the nearest key."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.compat.row import Row, Rows
from firstlight.config.source import KeyPath, Source

_CALLBACKS = "callbacks"
_ALL_BELOW = ".**"


@dataclass(frozen=True, kw_only=True)
class Written:
    """A key of the file that has a row: what is written there, and where."""

    key: str
    value: Any
    origin: str
    row: Row


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A key of the file that has none."""

    message: str


class Matcher:
    """The rows of one generation, by key."""

    def __init__(self, rows: Rows) -> None:
        self._rows = {row.key: row for row in rows}

    def row(self, key: str) -> Row | None:
        """The row of one key."""
        return self._rows.get(key) or self._rows.get(key + _ALL_BELOW)

    def match(self, source: Source) -> Iterator[Written | Unknown]:
        """What is written, in the order of the file."""
        for key, value in source.values.items():
            if key == _CALLBACKS and isinstance(value, list):
                yield from self._callbacks(source, value)
            else:
                yield from self._walk(source, (key,), (key,), value)

    def _callbacks(self, source: Source, callbacks: list[Any]) -> Iterator[Written | Unknown]:
        """A callback's keys stand below its type."""
        for number, callback in enumerate(callbacks):
            place: KeyPath = (_CALLBACKS, number)
            kind = callback.get("type") if isinstance(callback, Mapping) else None
            if kind is None:
                yield Unknown(message=f"{_CALLBACKS}.{number} has no type{_at(source, place)}")
            elif not any(key.startswith(f"{_CALLBACKS}.{kind}.") for key in self._rows):
                kinds = sorted({key.split(".")[1] for key in self._rows if key.startswith(f"{_CALLBACKS}.")})
                yield Unknown(
                    message=f"{_CALLBACKS}: {kind} is not known{_nearest(str(kind), kinds)}{_at(source, place)}"
                )
            else:
                yield from self._walk(source, (_CALLBACKS, str(kind)), place, callback)

    def _walk(
        self,
        source: Source,
        path: tuple[str, ...],
        place: KeyPath,
        value: Any,
        otherwise: Row | None = None,
    ) -> Iterator[Written | Unknown]:
        """`path` is the key as rows have it, `place` where it stands in the file; `otherwise` is the row of a section
        for those of its keys that have none of their own."""
        key = ".".join(path)
        is_section = isinstance(value, Mapping)
        whole = self._rows.get(key + _ALL_BELOW)
        row = whole or otherwise if is_section else self._rows.get(key) or whole or otherwise
        if is_section and self._has_keys(key):
            for name, item in value.items():
                yield from self._walk(source, (*path, name), (*place, name), item, whole)
        elif row is not None:
            yield Written(key=key, value=value, origin=source.origin_of(place) or "", row=row)
        elif value is None and self._has_section(key):
            return  # an empty section
        else:
            yield Unknown(
                message=f"{key} is not a key of MindFormers that is known{self._advice(path)}{_at(source, place)}"
            )

    def _has_keys(self, key: str) -> bool:
        return any(known.startswith(f"{key}.") and known != key + _ALL_BELOW for known in self._rows)

    def _has_section(self, key: str) -> bool:
        return any(known.startswith(f"{key}.") for known in self._rows)

    def _advice(self, path: tuple[str, ...]) -> str:
        """The nearest key of the same section, or the sections that have a key of this name."""
        prefix, name = "".join(f"{part}." for part in path[:-1]), path[-1]
        beside = [key.removeprefix(prefix).split(".")[0] for key in self._rows if key.startswith(prefix)]
        section = prefix.removesuffix(".")
        known = [key.removesuffix(_ALL_BELOW).rpartition(".") for key in self._rows]
        nearest = _nearest(name, beside)
        owners = sorted({parent for parent, _, last in known if last == name and parent and parent != section})
        elsewhere = f"; it is a key of {' and '.join(owners[:3])}" if owners else ""
        return nearest if not owners else elsewhere


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _at(source: Source, place: KeyPath) -> str:
    origin = source.origin_of(place)
    return f" ({origin})" if origin else ""
