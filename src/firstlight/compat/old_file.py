"""A MindFormers file with what it inherits by `base_config`, and which generation of keys it is written in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError
from firstlight.compat.change import Change
from firstlight.config.source import KeyPath, Source, lay_over, read_source

_BASE = "base_config"
_ONLY_THERE = frozenset(
    {
        "base_config",
        "callbacks",
        "lr_schedule",
        "moe_config",
        "parallel_config",
        "recompute_config",
        "run_mode",
        "runner_config",
        "runner_wrapper",
        "train_dataset",
        "train_dataset_task",
        "trainer",
        "use_legacy",
    }
)
"""Sections that a file of our own never has."""
_MODEL_MARKS = frozenset({"model_config", "model_type", "arch", "architectures"})


class Generation(StrEnum):
    """The three schemas of MindFormers."""

    LEGACY = "legacy"
    """Up to r1.5: models under research/, `moe_config`."""
    CORE = "core graph"
    """r1.6 on: `use_legacy: False`."""
    PYNATIVE = "PyNative"
    """r2.0 on: `training`, `parallelism`, `lr_scheduler`."""


@dataclass(frozen=True, kw_only=True)
class OldFile:
    """The values, where each was written, and the text of every file that took part."""

    name: str
    source: Source
    generation: Generation
    texts: Mapping[str, str]


def is_mindformers(values: Mapping[str, Any]) -> bool:
    """Whether a YAML file is one of MindFormers and not of ours."""
    model = values.get("model")
    return bool(_ONLY_THERE & values.keys()) or (isinstance(model, Mapping) and bool(_MODEL_MARKS & model.keys()))


def read_old_file(path: Path, changes: Sequence[Change] = ()) -> OldFile:
    """Read `path` and what it inherits, and lay `changes` over it, in order.

    Raises InputError when one of the files is missing, or inherits from itself.
    """
    texts: dict[str, str] = {}
    source = _with_bases(path, texts, ())
    for change in changes:
        keys = tuple(change.key.split("."))
        if not all(keys):
            raise InputError(f"{change.origin}: {change.key!r} is no dotted key")
        lay_over(source, keys, change.text, change.origin)
    if not is_mindformers(source.values):
        raise InputError(
            f"{path} is no MindFormers file: it has neither its sections ({', '.join(sorted(_ONLY_THERE)[:6])} ...) "
            "nor a model with model_type"
        )
    return OldFile(name=path.name, source=source, generation=_generation(source.values), texts=texts)


def _with_bases(path: Path, texts: dict[str, str], above: tuple[Path, ...]) -> Source:
    here = path.resolve()
    if here in above:
        raise InputError(f"{path}: {_BASE} leads back to this file")
    source = read_source(path, allows_repeats=True)
    texts.setdefault(path.name, path.read_text(encoding="utf-8"))
    bases = source.values.pop(_BASE, None) or []
    merged = Source(values={})
    for base in [bases] if isinstance(bases, str) else bases:
        _lay_over(merged, _with_bases(path.parent / str(base), texts, (*above, here)))
    _lay_over(merged, source)
    return merged


def _lay_over(below: Source, above: Source) -> None:
    """Mappings are merged, all else is replaced."""
    _merge(below.values, above.values)
    replaced = [path for path in above.origins if not isinstance(_at(above.values, path), Mapping)]
    for path in [path for path in below.origins if any(path[: len(one)] == one for one in replaced)]:
        del below.origins[path]
    below.origins.update(above.origins)


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _merge(below[key], value)
        else:
            below[key] = value


def _at(values: Any, path: KeyPath) -> Any:
    for key in path:
        if isinstance(values, Mapping):
            values = values.get(str(key))
        elif isinstance(values, list) and isinstance(key, int) and key < len(values):
            values = values[key]
        else:
            return None
    return values


def _generation(values: Mapping[str, Any]) -> Generation:
    if {"lr_scheduler", "parallelism"} & values.keys() or "training" in values:
        return Generation.PYNATIVE
    if "use_legacy" in values:
        return Generation.LEGACY if values["use_legacy"] else Generation.CORE
    model = values.get("model")
    written = model.get("model_config") if isinstance(model, Mapping) else None
    is_core = isinstance(written, Mapping) and "model_type" in written and "type" not in written
    return Generation.CORE if is_core else Generation.LEGACY
