"""A run's weights as a Hugging Face folder: safetensors under the hub's names, config.json, tokenizer."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.checkpoint.checkpointer import load_newest
from firstlight.config.model import ModelConfig
from firstlight.convert.tensor_layout import to_theirs
from firstlight.models.family import family_of

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
    model: ModelConfig, checkpoints: Path, output: Path, tokenizer: ExportedTokenizer, *, dtype: DtypeName
) -> int:
    """Write the newest checkpoint of a run into the new folder `output`; returns the step that it holds.

    Raises InputError when `output` is not empty, NoCheckpointError when no checkpoint loads.
    """
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output} is not empty; name a new folder for the export")
    tensors = _empty_tensors(model)
    manifest = load_newest(checkpoints, {f"model/{name}": tensor for name, tensor in tensors.items()})
    output.mkdir(parents=True, exist_ok=True)
    _write_weights(_hub_tensors(model, tensors, _DTYPES[dtype]), output)
    config = {
        **family_of(model).config_json(model),
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_of_document_id,
        "pad_token_id": None,
        "dtype": str(_DTYPES[dtype]).removeprefix("torch."),
    }
    _write_json(output / "config.json", config)
    _write_tokenizer(tokenizer, output, model.max_position_embeddings)
    return manifest.step


def _empty_tensors(model: ModelConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        built = family_of(model).build(model)
    named = dict(built.named_parameters()) | dict(built.named_buffers())
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in named.items()}


def _hub_tensors(model: ModelConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the hub's layout. Buffers (the router's bias) stay fp32, as the hub has them."""
    family = family_of(model)
    for entry in family.tensors(model):
        ours = [tensors[name] if name.endswith("router.bias") else tensors[name].to(dtype) for name in entry.ours]
        yield from zip(entry.theirs, to_theirs(entry.layout, ours), strict=True)
    for theirs_name, ours_name in family.names(model).copies.items():
        yield theirs_name, tensors[ours_name].to(dtype)


def _write_weights(hub_tensors: Iterator[tuple[str, Tensor]], output: Path) -> None:
    """Files of at most 5 GB, and the index that says what is where when there are several."""
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, tensor in hub_tensors:
        if size + tensor.nbytes > _SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        # A copy: safetensors refuses tensors that share memory, as the slices of stacked experts do.
        shards[-1][name] = tensor.contiguous().clone()
        size += tensor.nbytes
        total += tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        save_file(shard, output / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
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
