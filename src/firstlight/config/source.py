"""YAML text to plain values that know where each of them stands; and `--set` overrides laid over them."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from firstlight.base.errors import InputError

KeyPath = tuple[str | int, ...]

_NUMBER_IN_WORDS = re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+")


@dataclass
class Source:
    """Plain values, and for each key path the place that it came from (`run.yaml:31`)."""

    values: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin_of(self, path: KeyPath) -> str | None:
        """The place of `path`, or of the nearest enclosing key that was written down."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return None


def read_source(path: Path) -> Source:
    """Read one YAML 1.2 file. Raises InputError when it is missing, empty, not YAML or not a mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"configuration file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"configuration file {path} cannot be read: {error}") from None
    try:
        document = YAML(typ="rt", pure=True).load(io.StringIO(text))
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds no configuration; expected sections such as `model:` and `data:`")
    source = Source(values={})
    source.values = _plain(document, (), source.origins, path.name)
    return source


def apply_overrides(source: Source, overrides: Sequence[str]) -> None:
    """Lay `a.b=value` assignments over `source`, in order. Values are read as YAML."""
    for text in overrides:
        key, equals, value_text = text.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path):
            raise InputError(f"--set {text}: expected KEY=VALUE, such as optimizer.learning_rate=1e-3")
        try:
            value = YAML(typ="safe", pure=True).load(value_text) if value_text.strip() else None
        except YAMLError as error:
            raise InputError(f"--set {text}: the value is not valid YAML: {error}") from None
        _assign(source, path, _number(value), f"--set {text}")


def _assign(source: Source, path: tuple[str, ...], value: Any, origin: str) -> None:
    node: Any = source.values
    for depth, key in enumerate(path[:-1]):
        node = _descend(node, key, ".".join(path[: depth + 1]), origin)
    last = _index(node, path[-1], ".".join(path), origin) if isinstance(node, list) else path[-1]
    node[last] = value
    typed: KeyPath = tuple(int(key) if key.isdigit() else key for key in path)
    for known in [known for known in source.origins if known[: len(typed)] == typed]:
        del source.origins[known]
    source.origins[typed] = origin


def _descend(node: Any, key: str, shown: str, origin: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, shown, origin)]
    child = node.get(key)
    if child is None:
        child = node[key] = {}
    if not isinstance(child, dict | list):
        raise InputError(f"{origin}: {shown} = {child!r} is a value, not a section")
    return child


def _index(node: list[Any], key: str, shown: str, origin: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise InputError(f"{origin}: {shown} is a list of {len(node)}; use an index from 0 to {len(node) - 1}")
    return int(key)


def _plain(node: Any, path: KeyPath, origins: dict[KeyPath, str], name: str) -> Any:
    """ruamel's round-trip containers as plain ones, noting the line of every key and item."""
    if isinstance(node, CommentedMap):
        for key in node:
            origins[(*path, str(key))] = f"{name}:{node.lc.key(key)[0] + 1}"
        return {str(key): _plain(value, (*path, str(key)), origins, name) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            origins[(*path, index)] = f"{name}:{node.lc.item(index)[0] + 1}"
        return [_plain(value, (*path, index), origins, name) for index, value in enumerate(node)]
    return _number(node)


def _number(value: Any) -> Any:
    """Plain numbers from ruamel's annotated ones, and 1e-3 (a string in YAML's grammar) as the number it is."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str) and _NUMBER_IN_WORDS.fullmatch(value):
        return float(value)
    return str(value) if isinstance(value, str) else value
