"""The weights of a run's checkpoint, under our own names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.checkpoint.manifest import read_manifest
from firstlight.checkpoint.saved_tensors import SavedTensors, open_newest
from firstlight.checkpoint.step_folder import step_folder
from firstlight.config.model import ModelConfig
from firstlight.convert.named_weights import NamedWeights
from firstlight.convert.source import StoredTensor
from firstlight.models.family import family_of
from firstlight.models.names import Entry, NameTable


class RunWeights:
    """The model of a checkpoint that is verified."""

    def __init__(self, saved: SavedTensors, tensors: Mapping[str, Tensor]) -> None:
        self._saved = saved
        self.place = self._saved.folder
        self.step = saved.manifest.step
        self.files = tuple(self.place / name for name in sorted(self._saved.manifest.files))
        self.tensors: Mapping[str, StoredTensor] = {
            name: StoredTensor(shape=tuple(tensor.shape), dtype=tensor.dtype) for name, tensor in tensors.items()
        }

    def read(self, name: str) -> Tensor:
        """The whole tensor. Raises UnusableCheckpoint when it cannot be read."""
        stored = self.tensors[name]
        out = torch.empty(stored.shape, dtype=stored.dtype)
        self._saved.fill({f"model/{name}": out})
        return out


@dataclass(frozen=True, kw_only=True)
class OwnNames(NameTable):
    """Our names beside themselves."""

    def entry(self, ours: str) -> Entry:
        """The tensor as it is."""
        return Entry(ours=(ours,), theirs=(ours,), layout="same")


def named_weights(model: ModelConfig, folder: Path, step: int | None = None, key: bytes | None = None) -> NamedWeights:
    """The model of the newest checkpoint in `folder`, or of the one after `step`, verified before the first is read.

    `key` is what signed it. Raises InputError or UnusableCheckpoint when there is none of that step, NoCheckpointError
    when none loads.
    """
    wanted = {f"model/{name}": tensor for name, tensor in family_of(model).shapes(model).items()}
    return saved_weights(
        model, open_newest(folder, wanted, key) if step is None else _open_step(folder, step, wanted, key)
    )


def saved_weights(model: ModelConfig, saved: SavedTensors) -> NamedWeights:
    """The model of a checkpoint that is open."""
    tensors = family_of(model).shapes(model)
    table = OwnNames(rows=(), num_hidden_layers=model.num_hidden_layers)
    return NamedWeights(source=RunWeights(saved, tensors), table=table)


def _open_step(folder: Path, step: int, tensors: Mapping[str, Tensor], key: bytes | None) -> SavedTensors:
    path = folder / step_folder(step)
    if not path.is_dir():
        raise InputError(f"{folder} has no checkpoint of step {step}")
    saved = SavedTensors(folder=path, manifest=read_manifest(path, key))
    saved.verify(tensors)
    return saved
