"""What lies beside the weights in a Hugging Face folder: config.json, the index of several files, a tokenizer."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstlight.convert.hub_folder import INDEX
from firstlight.convert.weight_format import WrittenFiles
from firstlight.models.family import family_of

_CONFIG = "config.json"
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)
"""Taken over from the input as they are, where it has them."""


def finish_hub_folder(written: WrittenFiles) -> None:
    """Add config.json, the index where there are several files, and what the input has of a tokenizer."""
    sizes: dict[str, int] = {}
    for tensors in written.tensors.values():
        for tensor in tensors:
            dtype = str(tensor.dtype).removeprefix("torch.")
            sizes[dtype] = sizes.get(dtype, 0) + tensor.num_bytes
    given = _read_config(written.origin)
    content = {
        **family_of(written.model).config_json(written.model),
        **{key: given[key] for key in _TOKEN_IDS if key in given},
        "dtype": max(sizes, key=lambda dtype: sizes[dtype]),
    }
    _write(written.folder / _CONFIG, content)
    if len(written.tensors) > 1:
        weight_map = {tensor.name: file for file, tensors in written.tensors.items() for tensor in tensors}
        _write(written.folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})
    for name in _COMPANIONS:
        if (written.origin / name).is_file():
            shutil.copyfile(written.origin / name, written.folder / name)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
