"""What `prepare` wrote down about a data set."""

import hashlib
import json
from pathlib import Path
from typing import Any

from firstlight.data.indexed import bin_path, idx_path

_DATA_SET_SUFFIXES = ("_heldout_text_document", "_text_document")


def bytes_per_token(prefix: Path) -> float | None:
    """Bytes of text for each token of the data set at `prefix`; None where no metadata lies beside it."""
    try:
        return float(_described(prefix)["bytes_per_token"])
    except (ValueError, KeyError, TypeError):
        return None


def file_marks(prefix: Path, ending: str = "") -> dict[str, dict[str, Any]]:
    """Size and hex SHA-256 of `<prefix>.bin` and `.idx`, as the metadata holds them; reads both files.

    `ending` is what their names still have behind that.
    """
    marks = {}
    for path in (bin_path(prefix), idx_path(prefix)):
        with Path(f"{path}{ending}").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            marks[path.suffix] = {"bytes": file.seek(0, 2), "sha256": digest}
    return marks


def has_file_marks(prefix: Path) -> bool:
    """Whether metadata beside the data set says what is in its files."""
    return isinstance(_described(prefix).get("files"), dict)


def different_file(prefix: Path) -> str | None:
    """What differs between the files of `prefix` and their metadata; None when nothing does or none lies beside."""
    if not has_file_marks(prefix):
        return None
    recorded = _described(prefix)["files"]
    for suffix, mark in file_marks(prefix).items():
        if recorded.get(suffix) != mark:
            return f"{prefix}{suffix} is not the file that was prepared: its size or SHA-256 differs from its metadata"
    return None


def _described(prefix: Path) -> dict[str, Any]:
    """What the metadata says about this data set; empty where there is none, or somebody else's JSON."""
    suffix = next((suffix for suffix in _DATA_SET_SUFFIXES if prefix.name.endswith(suffix)), None)
    if suffix is None:
        return {}
    path = prefix.with_name(prefix.name.removesuffix(suffix) + ".json")
    if not path.is_file():
        return {}
    try:
        sets = json.loads(path.read_text(encoding="utf-8"))["sets"].values()
        found: Any = next((one for one in sets if one["prefix"] == prefix.name), {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}
