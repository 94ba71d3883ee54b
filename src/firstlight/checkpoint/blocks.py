"""Reads parts of tensors out of safetensors files: the header, then the bytes that are asked for and hardly any other.

Plain reads, not a mapping: a file that is cut while it is read is an error, not a signal.
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight.checkpoint.manifest import UnusableCheckpoint
from firstlight.checkpoint.pieces import Landing, file_at, fill_from

NAME_OF_DTYPE = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Data types as safetensors writes them."""

_DTYPE_OF_NAME = {name: dtype for dtype, name in NAME_OF_DTYPE.items()}
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
_SHORT_RUN_BYTES = 1 << 14
"""Pieces shorter than this are read together with what lies between them: a read costs more than the bytes."""

Region = tuple[tuple[int, int], ...]
"""Begin and end in each dimension; empty for a scalar."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A tensor in a file: its type, shape, and where its bytes begin."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int


Fill = Callable[[memoryview, int], None]
"""Fills memory with the bytes of a file from a place on."""


class BlockFile:
    """An open safetensors file of `size` bytes. `num_read` counts the bytes of tensors that were read."""

    def __init__(self, path: Path, fill: Fill, size: int) -> None:
        self._path = path
        self._fill = fill
        self._size = size
        self.num_read = 0
        self.blocks = self._header()

    def read(self, name: str, region: Region) -> Tensor:
        """`region` of the tensor `name`, as a new tensor. Raises UnusableCheckpoint when the file ends before it."""
        out = torch.empty([end - begin for begin, end in region], dtype=self.blocks[name].dtype)
        self.fill(self.landing(name, region, out))
        return out

    def fill(self, landing: Landing) -> None:
        """Read what is to land there."""
        for place, memory in landing.runs:
            self._fill(memory, place)
        if landing.arrived is not None:
            landing.arrived()

    def landing(self, name: str, region: Region, out: Tensor) -> Landing:
        """Where the bytes of the region go to be in `out`, of its shape and type on any device: in its own memory, if
        that can be."""
        block = self.blocks[name]
        if out.numel() == 0:
            return Landing(runs=())
        split = _first_contiguous_dim(block.shape, region)
        run_bytes = math.prod(out.shape[split:]) * block.dtype.itemsize
        if split > 0 and run_bytes < _SHORT_RUN_BYTES:
            rows = tuple((0, size) for size in block.shape[1:])
            part = (slice(None), *(slice(begin, end) for begin, end in region[1:]))
            return self._landing_aside(name, (region[0], *rows), lambda whole: out.copy_(whole[part]))
        if out.device.type != "cpu" or not out.is_contiguous():
            return self._landing_aside(name, region, out.copy_)
        target = bytes_of(out)
        self.num_read += len(target)
        begins = (block.begin + begin * block.dtype.itemsize for begin in _run_begins(block.shape, region, split))
        runs = ((place, target[number * run_bytes :][:run_bytes]) for number, place in enumerate(begins))
        return Landing(runs=runs)

    def _landing_aside(self, name: str, region: Region, take: Callable[[Tensor], object]) -> Landing:
        """In memory that `take` is given when it is filled."""
        aside = torch.empty([end - begin for begin, end in region], dtype=self.blocks[name].dtype)

        def arrived() -> None:
            take(aside)

        return Landing(runs=self.landing(name, region, aside).runs, arrived=arrived)

    def span(self, name: str, region: Region) -> tuple[int, int]:
        """Begin and end of the bytes that `read` needs of the file, with what lies between them."""
        block = self.blocks[name]
        row = math.prod(block.shape[1:]) * block.dtype.itemsize
        begin, end = region[0] if region else (0, 1)
        return block.begin + begin * row, block.begin + end * row

    def _header(self) -> dict[str, Block]:
        prefix = bytearray(_LENGTH_BYTES)
        self._fill(memoryview(prefix), 0)
        length, size = int.from_bytes(prefix, "little"), self._size
        if length > min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise UnusableCheckpoint(f"{self._path} cannot be read: its header of {length} bytes is longer than it")
        text = bytearray(length)
        self._fill(memoryview(text), _LENGTH_BYTES)
        try:
            entries = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
            return {name: _block(entry, _LENGTH_BYTES + length, size) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnusableCheckpoint(f"{self._path} cannot be read: its header is damaged: {error!r}") from None


@contextmanager
def opened(path: Path) -> Iterator[BlockFile]:
    """The file at `path`, which was verified before. Raises UnusableCheckpoint when it cannot be read, also inside."""
    with file_at(path) as file:

        def fill(target: memoryview, place: int) -> None:
            fill_from(path, file, [target], place)

        yield BlockFile(path, fill, os.fstat(file.fileno()).st_size)


def header_of(tensors: Mapping[str, Tensor]) -> tuple[bytes, list[str]]:
    """The beginning of a safetensors file with these tensors, and the order in which their bytes follow.

    The widest types come first and the header's length is a multiple of 8, so that every value is aligned.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    entries, begin = {}, 0
    for name in names:
        tensor, end = tensors[name], begin + tensors[name].nbytes
        entries[name] = {
            "dtype": NAME_OF_DTYPE[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, names


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor in host memory, not a copy."""
    array: Any = tensor.view(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _block(entry: Any, data_begin: int, file_size: int) -> Block:
    begin, end = entry["data_offsets"]
    block = Block(dtype=_DTYPE_OF_NAME[entry["dtype"]], shape=tuple(entry["shape"]), begin=data_begin + begin)
    if end - begin != math.prod(block.shape) * block.dtype.itemsize or data_begin + end > file_size:
        raise ValueError(f"bytes {begin} to {end} are not a tensor of shape {entry['shape']}")
    return block


def _first_contiguous_dim(shape: Sequence[int], region: Region) -> int:
    """The first dimension from which on the region is one run of bytes."""
    split = max(len(shape) - 1, 0)
    while split > 0 and region[split] == (0, shape[split]):
        split -= 1
    return split


def _run_begins(shape: Sequence[int], region: Region, split: int) -> Iterator[int]:
    """Where the runs begin, in elements, in the order of the region."""
    strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    first = region[split][0] * strides[split] if shape else 0
    for index in itertools.product(*(range(begin, end) for begin, end in region[:split])):
        yield first + sum(place * stride for place, stride in zip(index, strides, strict=False))
