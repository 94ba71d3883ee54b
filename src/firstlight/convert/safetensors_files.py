"""Tensors of one or several `.safetensors` files by name, each read when it is asked for."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.convert.source import StoredTensor

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Data types as safetensors writes them."""


class SafetensorsFiles:
    """The tensors of `files`; `place` is what messages name. Raises InputError when a file cannot be read, or when two
    of them have a tensor of the same name."""

    def __init__(self, place: Path, files: Iterable[Path]) -> None:
        self.place = place
        self.files = tuple(files)
        self._file_of: dict[str, Path] = {}
        found: dict[str, StoredTensor] = {}
        for file in self.files:
            for name, stored in stored_tensors(file).items():
                if name in found:
                    raise InputError(f"{name} is in {file} and in {self._file_of[name]}; one of them is over")
                found[name], self._file_of[name] = stored, file
        self.tensors: Mapping[str, StoredTensor] = found

    def read(self, name: str) -> Tensor:
        """The tensor `name`. Raises InputError when its file cannot be read."""
        return read_tensor(self._file_of[name], name)


def stored_tensors(file: Path) -> dict[str, StoredTensor]:
    """What is in a file. Raises InputError when it cannot be read, or has a data type that is not known."""
    found = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # no mapping
                part = opened.get_slice(name)
                dtype = DTYPES.get(part.get_dtype())
                if dtype is None:
                    raise InputError(f"{file}: {name} is {part.get_dtype()}; known are {', '.join(DTYPES)}")
                found[name] = StoredTensor(shape=tuple(part.get_shape()), dtype=dtype)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} cannot be read: {error}; copy it again") from None
    return found


def read_tensor(file: Path, name: str) -> Tensor:
    """One tensor of a file, in host memory. Raises InputError when it cannot be read."""
    try:
        with safe_open(file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} cannot be read: {error}; copy it again") from None
    return tensor
