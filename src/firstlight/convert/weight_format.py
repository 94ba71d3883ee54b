"""What a format of weights can do: be recognised, be read, be written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.config.model import ModelConfig
from firstlight.convert.mindformers_weights import MindFormersChoices
from firstlight.convert.named_weights import NamedWeights
from firstlight.convert.safetensors_writer import PlannedTensor
from firstlight.models.names import NameTable


@dataclass(frozen=True, kw_only=True)
class ReadChoices:
    """What a file or folder does not tell about itself.

    `model` is needed where there is no configuration with the weights; `at` names one of several checkpoints.
    """

    model: ModelConfig | None = None
    at: str | None = None
    strategy: Path | None = None
    mindformers: MindFormersChoices = field(default_factory=MindFormersChoices)

    def required_model(self, place: Path) -> ModelConfig:
        """The model. Raises InputError where it was not given."""
        if self.model is None:
            raise InputError(f"{place} has no configuration of its model with it; name one with --config")
        return self.model


@dataclass(frozen=True, kw_only=True)
class OpenedWeights:
    """Weights and the model that they are of."""

    model: ModelConfig
    weights: NamedWeights


class TensorWriter(Protocol):
    """Appends tensors to a file, in the planned order. `crc` is the CRC-32 of its bytes, where the format wants it."""

    @property
    def crc(self) -> int: ...

    def add(self, name: str, tensor: Tensor) -> None: ...

    def finish(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class WrittenFiles:
    """A finished conversion's files: which tensors each of them has. `origin` is the input."""

    folder: Path
    origin: Path
    model: ModelConfig
    tensors: Mapping[str, Sequence[PlannedTensor]]


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a format is written: a folder of files of about `shard_bytes`, or with None one file."""

    shard_bytes: int | None
    suffix: str
    table: Callable[[ModelConfig, MindFormersChoices], NameTable]
    start: Callable[[BinaryIO, Sequence[PlannedTensor], int], TensorWriter]
    """A writer of the tensors into a file, gone on with after the bytes whose CRC-32 is given."""
    finish: Callable[[WrittenFiles], None] | None = None
    """Adds to a folder what is beside the weights."""


@dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """A row of the table of formats."""

    name: str
    title: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path, ReadChoices], OpenedWeights]
    output: Output | None = None
