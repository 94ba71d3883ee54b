"""YAML plus overrides to a checked RunConfig; every fault is reported at once, with its place."""

import difflib
import io
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML

from firstlight.base.errors import InputError
from firstlight.config.batch import BATCH_LABELS
from firstlight.config.fewer_ranks import on_fewer_ranks
from firstlight.config.rules import broken_rules
from firstlight.config.schedule import UNION_LABELS
from firstlight.config.schema import RunConfig
from firstlight.config.source import KeyPath, Source, apply_overrides, read_source

_TAG_KEYS = ("kind", "type", "scoring")
"""The keys whose value says which section of several stands there."""


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

    def on_fewer(self, world_size: int, *, whole: int) -> "Loaded":
        """The same run, which is made for `whole` ranks, on so many of them."""
        return replace(self, config=on_fewer_ranks(self.config, world_size, whole=whole))

    def refusal(self, world_size: int, *, whole: int) -> str | None:
        """Which rules so many of `whole` ranks break; None when they break none."""
        broken = broken_rules(on_fewer_ranks(self.config, world_size, whole=whole), world_size)
        return "; ".join(rule.message for rule in broken) or None


ModelReader = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def load(path: Path, overrides: Sequence[str] = (), read_model: ModelReader | None = None) -> Loaded:
    """Read `path`, lay `overrides` (`a.b=value`) over it and validate. Raises InputError.

    `read_model` fills in a model section that names `from_hf`; without it the section must be whole.
    """
    return load_source(read_source(path), str(path), overrides, read_model)


def load_source(
    source: Source, name: str, overrides: Sequence[str] = (), read_model: ModelReader | None = None
) -> Loaded:
    """As `load`, of values that were read already; `name` is what faults are said to be in."""
    apply_overrides(source, overrides)
    model = source.values.get("model")
    if read_model is not None and isinstance(model, Mapping) and model.get("from_hf") is not None:
        source.values["model"] = dict(read_model(model))
    try:
        config = RunConfig.model_validate(source.values)
    except ValidationError as error:
        lines = list(_describe(error, source))
        raise InputError(_join(f"{name} has", "fault", lines)) from None
    return Loaded(config=config, source=source)


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load` reads back to an equal one."""
    return dump_section(config.model_dump(mode="json"))


def dump_section(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, in their order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # keep the schema's order
    text = io.StringIO()
    yaml.dump(values, text)
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
        if fault["type"].startswith("union_tag"):
            path = (*path, _tag_key(fault["ctx"]))
        shown = ".".join(str(key) for key in path)
        yield f"{shown}{_what_is_wrong(fault, path, source.values)}{_place(source, path)}"


def _what_is_wrong(fault: ErrorDetails, path: KeyPath, values: Any) -> str:
    """The text behind the key that names the fault."""
    match fault["type"]:
        case "extra_forbidden":
            return f" is not a known key{_advice(path, values)}"
        case "missing":
            return " is missing"
        case "union_tag_not_found":
            return f" is missing; use {_choices(path, values)}"
        case "union_tag_invalid":
            return f" = {fault['ctx']['tag']!r} is not known; use {_choices(path, values)}"
        case "value_error":
            return f": {fault['ctx']['error']}"
        case _:
            return f" = {fault['input']!r}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _tag_key(context: Mapping[str, Any]) -> str:
    """`kind`, `type` or `scoring`: the key whose value chooses the section."""
    return str(context["discriminator"]).strip("'")


def _written_path(loc: KeyPath, values: Any) -> KeyPath:
    """pydantic's location without the tags of the chosen union members, which the user did not write."""
    path: list[str | int] = []
    node = values
    for position, key in enumerate(loc):
        if key in (*UNION_LABELS, *BATCH_LABELS):
            continue
        if isinstance(node, Mapping) and key not in node and key in _tags_of(node, path, values):
            continue
        path.append(key)
        last = position == len(loc) - 1
        if not last and isinstance(node, Mapping | list):
            node = node[key] if isinstance(node, list) else node.get(str(key))  # type: ignore[index]
    return tuple(path)


def _tags_of(node: Mapping[Any, Any], path: Sequence[str | int], values: Any) -> list[str | None]:
    """The tag that `node` at `path` carries; where it carries none, those of the sections that may stand there."""
    written = [node.get(key) for key in _TAG_KEYS]
    if any(written):
        return written
    sections = _sections_at(tuple(path), values)
    return [_tag(section) for section in sections] if len(sections) > 1 else []


def _advice(path: KeyPath, values: Any) -> str:
    """What would do instead of the unknown key at the end of `path`."""
    key = str(path[-1])
    sections = _sections_at(path[:-1], values)
    chosen = _chosen(sections, _value_at(path[:-1], values))
    owners = [_tag(section) for section in sections if section is not chosen and key in section.model_fields]
    if owners:
        return f" of {_tag(chosen)}; it belongs to {_listed(owners)}"
    known = list(chosen.model_fields)
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known keys here: {', '.join(known)}"


def _choices(path: KeyPath, values: Any) -> str:
    """The values that the tag at the end of `path` may have."""
    return _listed([_tag(section) for section in _sections_at(path[:-1], values)])


def _sections_at(path: KeyPath, values: Any) -> list[type[BaseModel]]:
    """The section classes that may stand at `path`: one, or the members of a tagged union."""
    sections: list[type[BaseModel]] = [RunConfig]
    for depth, key in enumerate(path):
        if isinstance(key, str):
            chosen = _chosen(sections, _value_at(path[:depth], values))
            sections = _section_classes(chosen.model_fields[key].annotation)
    return sections


def _section_classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in typing.get_args(annotation) for section in _section_classes(argument)]


def _chosen(sections: Sequence[type[BaseModel]], value: Any) -> type[BaseModel]:
    """The section whose tag `value` carries; the first where it carries none."""
    written = [value.get(key) for key in _TAG_KEYS] if isinstance(value, Mapping) else []
    tag = next(filter(None, written), None)
    return next((section for section in sections if _tag(section) == tag), sections[0])


def _tag(section: type[BaseModel]) -> str:
    tag_field = next((section.model_fields[key] for key in _TAG_KEYS if key in section.model_fields), None)
    return str(tag_field.default) if tag_field else section.__name__


def _value_at(path: KeyPath, values: Any) -> Any:
    for key in path:
        values = values[key]
    return values


def _listed(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
