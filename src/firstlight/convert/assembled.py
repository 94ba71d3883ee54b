"""Whole tensors put together from the blocks that ranks have saved, one tensor at a time."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.convert.source import StoredTensor


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a tensor that begins at `offset`; `read` gives its values."""

    offset: tuple[int, ...]
    stored: StoredTensor
    read: Callable[[], Tensor]


class AssembledTensors:
    """The tensors of `shapes` that `blocks` cover. Raises InputError when they do not fit together."""

    def __init__(
        self,
        place: Path,
        files: Iterable[Path],
        blocks: Mapping[str, list[Block]],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.place = place
        self.files = tuple(files)
        self._blocks: dict[str, list[Block]] = {}
        found: dict[str, StoredTensor] = {}
        for name, every in blocks.items():
            self._blocks[name] = self._required(name, every, shapes[name])
            found[name] = StoredTensor(shape=shapes[name], dtype=every[0].stored.dtype)
        self.tensors: Mapping[str, StoredTensor] = found

    def read(self, name: str) -> Tensor:
        """The whole tensor. Raises InputError when a file cannot be read."""
        stored, blocks = self.tensors[name], self._blocks[name]
        if len(blocks) == 1:
            return blocks[0].read()
        whole = torch.empty(stored.shape, dtype=stored.dtype)
        for block in blocks:
            part = tuple(slice(at, at + size) for at, size in zip(block.offset, block.stored.shape, strict=True))
            whole[part] = block.read()
        return whole

    def _required(self, name: str, every: list[Block], shape: tuple[int, ...]) -> list[Block]:
        """The blocks that make up the tensor, each once."""
        once = list({block.offset: block for block in reversed(every)}.values())[::-1]
        if len({(block.offset, block.stored.shape) for block in every}) > len(once):
            raise InputError(f"{self.place}: blocks of {name} begin at one place, but have several shapes")
        if len({block.stored.dtype for block in every}) > 1:
            raise InputError(f"{self.place}: the blocks of {name} are of several data types")
        covered = sum(math.prod(block.stored.shape) for block in once)
        if covered != math.prod(shape) or not all(_is_inside(block, shape) for block in once) or _do_overlap(once):
            raise InputError(
                f"{self.place}: the blocks of {name} cover {covered} of {math.prod(shape)} elements, or not each once; "
                "files of ranks are missing, or the layout is that of another run"
            )
        return once


def _is_inside(block: Block, shape: tuple[int, ...]) -> bool:
    sizes = block.stored.shape
    return all(at >= 0 and at + size <= whole for at, size, whole in zip(block.offset, sizes, shape, strict=True))


def _do_overlap(blocks: list[Block]) -> bool:
    sizes = blocks[0].stored.shape
    is_grid = all(
        block.stored.shape == sizes and not any(at % max(size, 1) for at, size in zip(block.offset, sizes, strict=True))
        for block in blocks
    )
    # In a grid, blocks that begin at different places are apart.
    return not is_grid and any(_overlap(*pair) for pair in itertools.combinations(blocks, 2))


def _overlap(first: Block, second: Block) -> bool:
    return all(
        max(one, other) < min(one + size, other + other_size)
        for one, size, other, other_size in zip(
            first.offset, first.stored.shape, second.offset, second.stored.shape, strict=True
        )
    )
