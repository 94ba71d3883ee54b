"""A run's weights as a Hugging Face folder: safetensors under the hub's names, config.json, tokenizer.

One file is put together at a time, from the checkpoint's blocks: the model is never whole in memory.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.checkpoint.saved_tensors import SavedTensors, open_newest
from firstlight.config.model import ModelConfig
from firstlight.convert.tensor_layout import to_theirs
from firstlight.models.family import family_of
from firstlight.models.names import Entry

_SHARD_BYTES = 5 * 10**9

DtypeName = Literal["fp32", "bf16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class ExportedTokenizer:
    """The tokenizer that goes with the weights: its file, and the token that ends a document."""

    file: Path
    end_of_document: str
    end_of_document_id: int


def export(
    model: ModelConfig,
    checkpoints: Path,
    output: Path,
    tokenizer: ExportedTokenizer,
    *,
    dtype: DtypeName,
    key: bytes | None = None,
    kind: str = "model",
    model_after: Callable[[int], ModelConfig] | None = None,
) -> int:
    """Write the newest checkpoint of a run into the new folder `output`; returns the step that it holds.

    `kind`: which tensors of the checkpoint are the weights, "model" or "ema". `model_after` gives the model by the
    step, where phases of the run have changed its rotary embedding.

    Raises InputError when `output` is not empty, NoCheckpointError when no checkpoint loads.
    """
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output} is not empty; name a new folder for the export")
    saved = open_newest(checkpoints, _by_saved_name(family_of(model).shapes(model), kind), key)
    output.mkdir(parents=True, exist_ok=True)
    step = saved.manifest.step
    after = model if model_after is None else model_after(step)
    _write(after, _Pieces(after, saved, _DTYPES[dtype], kind), output, tokenizer)
    return step


def export_saved(
    model: ModelConfig, saved: SavedTensors, output: Path, tokenizer: ExportedTokenizer, *, dtype: DtypeName
) -> None:
    """Write one checkpoint into the empty folder `output`. Raises UnusableCheckpoint when it is not sound."""
    saved.verify(_by_saved_name(family_of(model).shapes(model)))
    _write(model, _Pieces(model, saved, _DTYPES[dtype], "model"), output, tokenizer)


def _write(model: ModelConfig, pieces: "_Pieces", output: Path, tokenizer: ExportedTokenizer) -> None:
    _write_weights(pieces, output)
    config = {
        **family_of(model).config_json(model),
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_of_document_id,
        "pad_token_id": None,
        "dtype": str(pieces.dtype).removeprefix("torch."),
    }
    _write_json(output / "config.json", config)
    _write_tokenizer(tokenizer, output, model.max_position_embeddings)


def _by_saved_name(tensors: Mapping[str, Tensor], kind: str = "model") -> dict[str, Tensor]:
    return {f"{kind}/{name}": tensor for name, tensor in tensors.items()}


class _Pieces:
    """The hub's tensors, made of the checkpoint's one entry of the name table at a time."""

    def __init__(self, model: ModelConfig, saved: SavedTensors, dtype: torch.dtype, kind: str) -> None:
        family = family_of(model)
        self._tensors = family.shapes(model)
        self._saved = saved
        self._kind = kind
        self.dtype = dtype
        self.entries = list(family.tensors(model))
        self.entries += [
            Entry(ours=(ours,), theirs=(theirs,), layout="same") for theirs, ours in family.names(model).copies.items()
        ]

    def num_bytes(self, entry: Entry) -> int:
        """The size of what `read` gives."""
        return sum(self._tensors[name].numel() * self._dtype_of(name).itemsize for name in entry.ours)

    def read(self, entry: Entry) -> dict[str, Tensor]:
        """The tensors of an entry by the hub's names."""
        ours = [torch.empty_like(self._tensors[name], device="cpu") for name in entry.ours]
        self._saved.fill(_by_saved_name(dict(zip(entry.ours, ours, strict=True)), self._kind))
        cast = [tensor.to(self._dtype_of(name)) for name, tensor in zip(entry.ours, ours, strict=True)]
        # Copies: safetensors refuses tensors that share memory, as the slices of stacked experts do.
        parts = [part.contiguous().clone() for part in to_theirs(entry, cast)]
        return dict(zip(entry.theirs, parts, strict=True))

    def _dtype_of(self, name: str) -> torch.dtype:
        """Buffers (the router's bias) stay fp32, as the hub has them."""
        return torch.float32 if name.endswith("router.bias") else self.dtype


def _write_weights(pieces: _Pieces, output: Path) -> None:
    """Files of about 5 GB, and the index that says what is where when there are several."""
    shards: list[list[Entry]] = [[]]
    size = total = 0
    for entry in pieces.entries:
        num_bytes = pieces.num_bytes(entry)
        if size + num_bytes > _SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += num_bytes
        total += num_bytes
    weight_map: dict[str, str] = {}
    for number, entries in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        tensors = {name: tensor for entry in entries for name, tensor in pieces.read(entry).items()}
        save_file(tensors, output / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
    if len(shards) > 1:
        _write_json(
            output / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
        )


def _write_tokenizer(tokenizer: ExportedTokenizer, output: Path, max_length: int) -> None:
    shutil.copyfile(tokenizer.file, output / "tokenizer.json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": tokenizer.end_of_document,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(output / "tokenizer_config.json", settings)
    _write_json(output / "generation_config.json", {"eos_token_id": tokenizer.end_of_document_id})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
