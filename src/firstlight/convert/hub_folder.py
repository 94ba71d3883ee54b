"""A Hugging Face folder's `.safetensors` files, by tensor name."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.convert.fp8_blocks import SCALE_SUFFIX, dequantised
from firstlight.convert.safetensors_files import SafetensorsFiles

INDEX = "model.safetensors.index.json"


class HubFolder(SafetensorsFiles):
    """The folder's weights. Raises InputError when they cannot be read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, list(_files(folder)))

    def read(self, name: str) -> Tensor:
        """The tensor `name`; 8-bit blocks are multiplied by their scales, into fp32."""
        values = super().read(name)
        scales = f"{name.removesuffix('.weight')}.{SCALE_SUFFIX}"
        if values.dtype != torch.float8_e4m3fn:
            return values
        if scales not in self.tensors:
            raise InputError(f"{self.place}: {name} is 8-bit, but its scales {scales} are not there")
        return dequantised(values, super().read(scales))


def _files(folder: Path) -> Iterator[Path]:
    index = folder / INDEX
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise InputError(f"{folder} holds no .safetensors files; name a Hugging Face folder with weights")
        yield from found
        return
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is no index of weights: {error}") from None
    if any(Path(name).name != name for name in names):
        raise InputError(f"{index} names files outside of its folder")
    yield from (folder / name for name in names)
