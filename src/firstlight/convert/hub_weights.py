"""A Hugging Face folder's weights into a model, tensor by tensor: never more of it in memory than one entry."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger
from firstlight.checkpoint.shards import LocalShard, local_shard
from firstlight.config.model import ModelConfig
from firstlight.convert.fp8_blocks import SCALE_SUFFIX, dequantised
from firstlight.convert.tensor_layout import to_ours, to_theirs
from firstlight.models.family import family_of
from firstlight.models.names import Entry

_INDEX = "model.safetensors.index.json"
_MOST_NAMED = 12
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor is and what it is."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class HubFolder:
    """The safetensors files of a folder, by tensor name. Raises InputError when they cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors = dict(self._stored())

    def read(self, name: str) -> Tensor:
        """The tensor `name`; 8-bit blocks are multiplied by their scales, into fp32."""
        values = self._read(name)
        scales = f"{name.removesuffix('.weight')}.{SCALE_SUFFIX}"
        if values.dtype != torch.float8_e4m3fn:
            return values
        if scales not in self.tensors:
            raise InputError(f"{self.folder}: {name} is 8-bit, but its scales {scales} are not there")
        return dequantised(values, self._read(scales))

    def _read(self, name: str) -> Tensor:
        stored = self.tensors[name]
        try:
            with safe_open(stored.file, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{stored.file} cannot be read: {error}; copy it again") from None
        return tensor

    def _stored(self) -> Iterator[tuple[str, StoredTensor]]:
        for file in self._files():
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118  # no mapping
                        part = opened.get_slice(name)
                        yield name, StoredTensor(file=file, shape=tuple(part.get_shape()), dtype=part.get_dtype())
            except (SafetensorError, OSError) as error:
                raise InputError(f"{file} cannot be read: {error}; copy it again") from None

    def _files(self) -> list[Path]:
        index = self.folder / _INDEX
        if not index.is_file():
            found = sorted(self.folder.glob("*.safetensors"))
            if not found:
                raise InputError(f"{self.folder} holds no .safetensors files; name a Hugging Face folder with weights")
            return found
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} is no index of weights: {error}") from None
        if any(Path(name).name != name for name in names):
            raise InputError(f"{index} names files outside of its folder")
        return [self.folder / name for name in names]


@torch.no_grad()
def read_weights(config: ModelConfig, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors`, parameters and buffers by our names, plain or sharded, all or some, from a Hugging Face folder.

    Each rank keeps what it holds. Raises InputError that names all tensors that are missing, of another shape or dtype,
    or not of this model, before anything is filled; and when a second copy of a tensor differs from the first.
    """
    hub = HubFolder(folder)
    table = family_of(config).names(config)
    shapes = family_of(config).shapes(config)
    copies = dict(table.copies)
    if config.tie_word_embeddings:
        copies["lm_head.weight"] = "embedding.weight"
    # A stage of a pipeline has a part of the tensors; the folder has to have all of them.
    _require_match(config, hub, list(table.entries(shapes)), shapes, copies)
    for entry in table.entries(tensors):
        _fill(hub, entry, {name: local_shard(tensors[name], is_first_rank=False) for name in entry.ours})
    for theirs, ours in copies.items():
        original = table.entry(ours).theirs[0]
        if theirs in hub.tensors and not torch.equal(hub.read(theirs), hub.read(original)):
            raise InputError(f"{folder}: {theirs} is a copy of {original} in this model, but differs from it")


def _fill(hub: HubFolder, entry: Entry, shards: Mapping[str, LocalShard]) -> None:
    if entry.layout == "per_expert":
        (shard,) = shards.values()
        first = shard.offset[0]
        for index in range(shard.data.shape[0]):
            rest = tuple(slice(at, at + size) for at, size in zip(shard.offset[1:], shard.data.shape[1:], strict=True))
            shard.data[index].copy_(hub.read(entry.theirs[first + index])[rest])
        return
    whole = to_ours(entry.layout, [hub.read(name) for name in entry.theirs], len(entry.ours))
    for name, values in zip(entry.ours, whole, strict=True):
        shard = shards[name]
        part = tuple(slice(at, at + size) for at, size in zip(shard.offset, shard.data.shape, strict=True))
        shard.data.copy_(values[part])


def _require_match(
    config: ModelConfig,
    hub: HubFolder,
    entries: list[Entry],
    shapes: Mapping[str, Tensor],
    copies: Mapping[str, str],
) -> None:
    faults = []
    known = set(copies)
    for entry in entries:
        known.update(entry.theirs)
        ours = to_theirs(entry.layout, [shapes[name] for name in entry.ours])
        for name, expected in zip(entry.theirs, ours, strict=True):
            stored = hub.tensors.get(name)
            if stored is None:
                faults.append(f"{name} is missing")
            elif stored.shape != tuple(expected.shape):
                faults.append(f"{name} has shape {list(stored.shape)}, this model's has {list(expected.shape)}")
            elif stored.dtype not in _DTYPES:
                faults.append(f"{name} is {stored.dtype}; known are {', '.join(_DTYPES)}")
    over = [name for name in hub.tensors if name not in known and not name.endswith(("inv_freq", SCALE_SUFFIX))]
    ahead = [name for name in over if _layer_of(name) >= config.num_hidden_layers]
    if ahead and config.num_mtp_layers == 0:
        get_logger().warning(f"{len(ahead)} tensors of layers for multi-token prediction are left out of the model")
        over = [name for name in over if name not in set(ahead)]
    faults += [f"{name} is not of this model" for name in over]
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:_MOST_NAMED])
        more = f"\n  and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
        raise InputError(f"the weights in {hub.folder} do not fit the model:\n{shown}{more}")


def _layer_of(name: str) -> int:
    parts = name.split(".")
    return int(parts[2]) if parts[:2] == ["model", "layers"] and len(parts) > 2 and parts[2].isdigit() else -1
