"""Writes a `.safetensors` file tensor by tensor: the header first, from shapes alone, then values in the same order."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.checkpoint.blocks import bytes_of
from firstlight.convert.safetensors_files import DTYPES

_NAME_OF = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True)
class PlannedTensor:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """The size of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsWriter:
    """Values into `file`, which is at its beginning, or where an earlier writer of the same tensors was."""

    crc = 0
    """The format has none."""

    def __init__(self, file: BinaryIO, tensors: Sequence[PlannedTensor], metadata: Mapping[str, str]) -> None:
        self._file = file
        if file.tell() == 0:
            file.write(_header(tensors, metadata))

    def add(self, name: str, tensor: Tensor) -> None:  # noqa: ARG002  # as the other writer; here order says it
        """Append the values of the next tensor."""
        self._file.write(bytes_of(tensor.cpu().contiguous()))

    def finish(self) -> None:
        """Nothing comes after the last value."""


def _header(tensors: Sequence[PlannedTensor], metadata: Mapping[str, str]) -> bytes:
    content: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for tensor in tensors:
        if tensor.dtype not in _NAME_OF:
            raise InputError(f"{tensor.name} is {tensor.dtype}, which a .safetensors file cannot hold; choose a dtype")
        end = begin + tensor.num_bytes
        content[tensor.name] = {
            "dtype": _NAME_OF[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
