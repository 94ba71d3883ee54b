"""What every format that is read looks like: tensors by the format's own names, one read at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """What a tensor is; its values are in the file still."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class WeightSource(Protocol):
    """A file or folder with tensors. `place` names it in messages; `files` are those that its values lie in."""

    @property
    def place(self) -> Path: ...

    @property
    def files(self) -> tuple[Path, ...]: ...

    @property
    def tensors(self) -> Mapping[str, StoredTensor]: ...

    def read(self, name: str) -> Tensor:
        """The whole tensor, in host memory. Raises InputError when the file cannot be read."""
