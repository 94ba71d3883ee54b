"""Writes docs/reference/configuration.md from the schema: every section, key, type, default and meaning."""

import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from firstlight.config.schema import RunConfig

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "configuration.md"
HEAD = """# Configuration

Every section and key of the YAML file. Written by `make docs` from the schema; a key without a default must be given.
A key whose type is several sections takes one of them; `kind`, `type`, `scoring` or `order` says which.
"""
LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections inside a type, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in typing.get_args(annotation) for section in sections(part)]


def shown_type(annotation: Any) -> str:
    """A type as a reader writes it: `int`, `null`, `"a" or "b"`, `list of ...`; sections as links."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return shown_type(parts[0])
    if origin is typing.Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(shown_type(part) for part in parts))
    if origin in (list, tuple):
        return f"list of {' and '.join(dict.fromkeys(shown_type(part) for part in parts if part is not Ellipsis))}"
    if origin is dict:
        return f"mapping of {shown_type(parts[0])} to {shown_type(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    name = getattr(annotation, "__name__", str(annotation))
    return {"NoneType": "`null`", "str": "text", "Path": "path"}.get(name, name)


def shown_limits(field: FieldInfo) -> str:
    """The numeric limits of a field, as in `>= 0, < 1`."""
    every = [*field.metadata, *(m for part in typing.get_args(field.annotation) for m in _field_limits(part))]
    return ", ".join(f"{sign} {getattr(m, name)}" for m in every for name, sign in LIMITS.items() if hasattr(m, name))


def _field_limits(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is not typing.Annotated:
        return []
    fields = [part for part in typing.get_args(annotation)[1:] if isinstance(part, FieldInfo)]
    return [limit for field in fields for limit in field.metadata]


def shown_default(field: FieldInfo) -> str:
    """The default as YAML; a section's defaults are in its own table."""
    if field.is_required():
        return "required"
    value = field.default if field.default is not PydanticUndefined else field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return f"[{type(value).__name__}](#{type(value).__name__.lower()})"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if value is None:
        return "`null`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(section: type[BaseModel]) -> str:
    """One section: what it is for, and a row for each key."""
    lines = [f"## {section.__name__}", "", (section.__doc__ or "").strip(), ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in section.model_fields.items():
        kind = ", ".join(filter(None, [shown_type(field.annotation), shown_limits(field)]))
        cells = [f"`{name}`", kind, shown_default(field), " ".join((field.description or "").split())]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def ordered(root: type[BaseModel]) -> list[type[BaseModel]]:
    """The root and all sections below it, each once, in the order in which the file holds them."""
    found = {root: None}
    for field in root.model_fields.values():
        for section in sections(field.annotation):
            found.update(dict.fromkeys(ordered(section)))
    return list(found)


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *map(table, ordered(RunConfig))])


def main() -> None:
    """Write the page."""
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(reference(), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(Path.cwd()) if TARGET.is_relative_to(Path.cwd()) else TARGET}")


if __name__ == "__main__":
    main()
