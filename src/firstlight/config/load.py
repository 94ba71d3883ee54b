"""YAML plus overrides to a checked RunConfig; every fault is reported at once, with its place."""

import difflib
import io
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from firstlight.base.errors import InputError
from firstlight.config.rules import broken_rules
from firstlight.config.schema import RunConfig
from firstlight.config.source import KeyPath, Source, apply_overrides, read_source


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A valid configuration that still knows where each value was written."""

    config: RunConfig
    source: Source

    def require_rules(self, *, world_size: int) -> None:
        """Raise InputError with every cross-section rule that is broken on `world_size` ranks."""
        broken = broken_rules(self.config, world_size)
        if broken:
            lines = [rule.message + _place(self.source, rule.path) for rule in broken]
            raise InputError(_join("the configuration breaks", "rule", lines))


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read `path`, lay `overrides` (`a.b=value`) over it and validate. Raises InputError."""
    source = read_source(path)
    apply_overrides(source, overrides)
    try:
        config = RunConfig.model_validate(source.values)
    except ValidationError as error:
        lines = list(_describe(error, source))
        raise InputError(_join(f"{path} has", "fault", lines)) from None
    return Loaded(config=config, source=source)


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load` reads back to an equal one."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # keep the schema's order
    text = io.StringIO()
    yaml.dump(config.model_dump(mode="json"), text)
    return text.getvalue()


def _join(subject: str, noun: str, lines: Sequence[str]) -> str:
    count = f"{len(lines)} {noun}" + ("s" if len(lines) > 1 else "")
    return f"{subject} {count}:\n" + "\n".join(f"  {line}" for line in lines)


def _place(source: Source, path: KeyPath) -> str:
    origin = source.origin_of(path)
    return f" ({origin})" if origin else ""


def _describe(error: ValidationError, source: Source) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        path = _written_path(fault["loc"], source.values)
        shown = ".".join(str(key) for key in path)
        place = _place(source, path)
        if fault["type"] == "extra_forbidden":
            known = _known_keys(path[:-1], source.values)
            yield f"{shown} is not a known key{_nearest(str(path[-1]), known)}{place}"
        elif fault["type"] == "missing":
            yield f"{shown} is missing{place}"
        elif fault["type"] == "value_error":
            yield f"{shown}: {fault['ctx']['error']}{place}"
        else:
            yield f"{shown} = {fault['input']!r}: {fault['msg'][:1].lower()}{fault['msg'][1:]}{place}"


def _written_path(loc: KeyPath, values: Any) -> KeyPath:
    """pydantic's location without the tags of the chosen union members, which the user did not write."""
    path: list[str | int] = []
    node = values
    for position, key in enumerate(loc):
        if isinstance(node, Mapping) and key not in node and key in (node.get("kind"), node.get("type")):
            continue
        path.append(key)
        last = position == len(loc) - 1
        if not last and isinstance(node, Mapping | list):
            node = node[key] if isinstance(node, list) else node.get(str(key))  # type: ignore[index]
    return tuple(path)


def _known_keys(path: KeyPath, values: Any) -> list[str]:
    section: type[BaseModel] | None = RunConfig
    node = values
    for key in path:
        node = node[key]
        if isinstance(key, str) and section is not None:
            section = _section_of(section.model_fields[key].annotation, node)
    return list(section.model_fields) if section else []


def _section_of(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The section class that `annotation` means for `value`: itself, an item's, or the union member of its tag."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_section_of(argument, value) for argument in typing.get_args(annotation) if argument is not types.NoneType]
    sections = [section for section in found if section is not None]
    tag = (value.get("kind") or value.get("type")) if isinstance(value, Mapping) else None
    for section in sections:
        tag_field = section.model_fields.get("kind") or section.model_fields.get("type")
        if tag_field is not None and tag_field.default == tag:
            return section
    return sections[0] if sections else None


def _nearest(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known keys here: {', '.join(known)}"
