"""Weights to begin with, as a MindFormers file names them."""

from collections.abc import Mapping
from pathlib import Path

from firstlight.compat.old_file import OldFile

_KEYS = (("load_checkpoint",), ("checkpoint", "load_path"))
_USUAL_OUTPUT = "./output"


def is_own_folder(path: str, output_folder: str) -> bool:
    """Whether `path` is in the folder where a run of `output_folder` has its own checkpoints."""
    own = Path(output_folder).absolute() / "checkpoint"
    return own in (Path(path).absolute(), *Path(path).absolute().parents)


def foreign_weights(old: OldFile) -> tuple[str, Path] | None:
    """The key, and a path that is there and is neither the run's own nor a Hugging Face folder; None where there is
    none."""
    for key in _KEYS:
        written = _at(old.source.values, key)
        path = Path(str(written or ""))
        output = str(old.source.values.get("output_dir") or _USUAL_OUTPUT)
        if written and path.exists() and not (path / "config.json").is_file() and not is_own_folder(str(path), output):
            return ".".join(key), path
    return None


def _at(values: object, key: tuple[str, ...]) -> object:
    for part in key:
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
