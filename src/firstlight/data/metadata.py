"""What `prepare` wrote down about a data set."""

import json
from pathlib import Path

_DATA_SET_SUFFIXES = ("_heldout_text_document", "_text_document")


def bytes_per_token(prefix: Path) -> float | None:
    """Bytes of text for each token of the data set at `prefix`; None where no metadata lies beside it."""
    suffix = next((suffix for suffix in _DATA_SET_SUFFIXES if prefix.name.endswith(suffix)), None)
    if suffix is None:
        return None
    path = prefix.with_name(prefix.name.removesuffix(suffix) + ".json")
    if not path.is_file():
        return None
    try:
        sets = json.loads(path.read_text(encoding="utf-8"))["sets"].values()
        return next((float(one["bytes_per_token"]) for one in sets if one["prefix"] == prefix.name), None)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Somebody else's JSON under the same name is no metadata of ours.
        return None
