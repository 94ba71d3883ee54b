"""YAML text to plain values that know where each of them stands; and `--set` overrides laid over them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from firstlight.base.errors import InputError

KeyPath = tuple[str | int, ...]


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


def read_source(path: Path, *, allows_repeats: bool = False) -> Source:
    """Read one YAML 1.2 file. Raises InputError when it is missing, empty, not YAML or not a mapping.

    A key that stands twice in one section is an error; with `allows_repeats` it may be there with the same value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"configuration file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"configuration file {path} cannot be read: {error}") from None
    try:
        reader = _yaml()
        reader.allow_duplicate_keys = allows_repeats
        values = reader.load(text)
        root = _yaml().compose(text)
    except YAMLError as error:
        line, problem = _problem(error)
        raise InputError(f"{path}{line}: not valid YAML: {problem}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no configuration; expected sections such as `model:` and `data:`")
    _require_equal_repeats(root, path)
    source = Source(values=_with_text_keys(values))
    _note_origins(root, (), source.origins, path.name)
    return source


def apply_overrides(source: Source, overrides: Sequence[str]) -> None:
    """Lay `a.b=value` assignments over `source`, in order. Values are read as YAML."""
    for text in overrides:
        key, equals, value_text = text.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path):
            raise InputError(f"--set {text}: expected KEY=VALUE, such as optimizer.learning_rate=1e-3")
        lay_over(source, path, value_text, f"--set {text}")


def lay_over(source: Source, path: tuple[str, ...], text: str, origin: str) -> None:
    """Give the key at `path` the value that `text` is as YAML; `origin` is what errors name. Raises InputError."""
    try:
        value = _yaml().load(text) if text.strip() else None
    except YAMLError as error:
        _, problem = _problem(error)
        raise InputError(f"{origin}: the value is not valid YAML: {problem}") from None
    _assign(source, path, _with_text_keys(value), origin)


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _problem(error: YAMLError) -> tuple[str, str]:
    """Where (`:12`) and what, in one line."""
    if isinstance(error, MarkedYAMLError):
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        return line, " ".join(str(error.problem or error.context).split())
    return "", " ".join(str(error).split())


def _assign(source: Source, path: tuple[str, ...], value: Any, origin: str) -> None:
    typed: KeyPath = tuple(int(key) if _is_index(key) else key for key in path)
    node: Any = source.values
    for depth, key in enumerate(path[:-1]):
        is_new = isinstance(node, dict) and node.get(key) is None
        node = _descend(node, key, ".".join(path[:depth]), origin)
        if is_new:
            source.origins[typed[: depth + 1]] = origin
    last = _index(node, path[-1], ".".join(path[:-1]), origin) if isinstance(node, list) else path[-1]
    node[last] = value
    for known in [known for known in source.origins if known[: len(typed)] == typed]:
        del source.origins[known]
    source.origins[typed] = origin


def _descend(node: Any, key: str, place: str, origin: str) -> Any:
    """The section or list under `key` of the section or list `node` at `place`; a section that is not there is made."""
    if isinstance(node, list):
        child = node[_index(node, key, place, origin)]
    else:
        child = node.get(key)
        if child is None:
            child = node[key] = {}
    if not isinstance(child, dict | list):
        shown = f"{place}.{key}" if place else key
        raise InputError(f"{origin}: {shown} = {child!r} is a value, not a section")
    return child


def _index(node: list[Any], key: str, place: str, origin: str) -> int:
    if not node:
        raise InputError(f"{origin}: {place} is an empty list; set the whole of it")
    if not _is_index(key) or int(key) >= len(node):
        usable = "0" if len(node) == 1 else f"0 to {len(node) - 1}"
        raise InputError(f"{origin}: {place} is a list of {len(node)} and has no index {key}; use {usable}")
    return int(key)


def _is_index(key: str) -> bool:
    return key.isascii() and key.isdecimal()


def _require_equal_repeats(node: Node, path: Path) -> None:
    if isinstance(node, MappingNode):
        seen: dict[str, Node] = {}
        for key, value in node.value:
            earlier = seen.setdefault(str(key.value), value)
            if key.value != "<<" and _plain(earlier) != _plain(value):
                lines = f"{path.name}:{earlier.start_mark.line + 1} and {value.start_mark.line + 1}"
                raise InputError(f"{path}: {key.value} is there twice, with different values ({lines}); leave one out")
            _require_equal_repeats(value, path)
    elif isinstance(node, SequenceNode):
        for item in node.value:
            _require_equal_repeats(item, path)


def _plain(node: Node) -> Any:
    """What a node says, without its places."""
    if isinstance(node, MappingNode):
        return [(_plain(key), _plain(value)) for key, value in node.value]
    return [_plain(item) for item in node.value] if isinstance(node, SequenceNode) else node.value


def _note_origins(node: Node, path: KeyPath, origins: dict[KeyPath, str], name: str) -> None:
    """Note the line of every key and item. What comes by a merge (`<<`) has the place of its section."""
    if isinstance(node, MappingNode):
        for key_node, value_node in node.value:
            child = (*path, str(key_node.value))
            origins[child] = f"{name}:{key_node.start_mark.line + 1}"
            _note_origins(value_node, child, origins, name)
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            child = (*path, index)
            origins[child] = f"{name}:{item.start_mark.line + 1}"
            _note_origins(item, child, origins, name)


def _with_text_keys(value: Any) -> Any:
    """Keys as text, as the schema has them (`1: x` is a key 1 in YAML)."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(item) for item in value]
    return value
