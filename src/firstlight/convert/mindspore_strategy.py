"""MindSpore's strategy files: which block of each parameter a rank holds.

A file is one protobuf message: `parallel_layout_item = 3` { `param_name = 1`, `parallel_layouts = 2` }; layouts hold
`dev_matrix = 1`, `tensor_map = 2` (one for each dimension when a dimension is cut by several axes, else one in all),
`field = 5`, `opt_weight_shard_step = 6`, `opt_weight_shard_size = 7`. Ranks of a stage stand in the device matrix row
by row; a dimension is cut by the axis that the map counts from the right, or by none (-1). Source: MindSpore 2.9.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from firstlight.base.errors import InputError
from firstlight.convert.wire import BYTES, DamagedMessage, Field, fields, integers, read_bytes

_LAYOUT_ITEM = 3
_PARAMETER, _LAYOUTS = 1, 2
_DEVICE_MATRIX, _TENSOR_MAP, _FIELD, _SHARD_STEP, _SHARD_SIZE = 1, 2, 5, 6, 7
_MAX_NAME_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class RankLayout:
    """How a parameter is cut: `axes` are, for each dimension, the places in `device_matrix` that cut it.

    Blocks are cut once more along the first dimension among `optimizer_shards` ranks that would hold the same one.
    """

    device_matrix: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    optimizer_shards: int = 1

    def of_dims(self, num_dims: int) -> "RankLayout":
        """The same for a tensor of `num_dims`: the file does not tell several dimensions from one that is cut by
        several axes. Raises ValueError when it cannot be of such a tensor."""
        if len(self.axes) == num_dims:
            return self
        if num_dims == 1:
            return replace(self, axes=(tuple(axis for axes in self.axes for axis in axes),))
        raise ValueError(f"its layout is of {len(self.axes)} dimensions, the tensor has {num_dims}")

    def offset(self, rank: int, local_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Where the block of `rank`, counted in its stage or in all, begins in the whole tensor."""
        coordinates = _coordinates(rank % math.prod(self.device_matrix), self.device_matrix)
        index = [_number(axes, coordinates, self.device_matrix) for axes in self.axes]
        if self.optimizer_shards > 1 and index:
            cut = {axis for axes in self.axes for axis in axes}
            alike = tuple(axis for axis in range(len(self.device_matrix)) if axis not in cut)
            among = _number(alike, coordinates, self.device_matrix) % self.optimizer_shards
            index[0] = index[0] * self.optimizer_shards + among
        return tuple(at * size for at, size in zip(index, local_shape, strict=True))

    def whole_shape(self, local_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor whose blocks have `local_shape`."""
        counts = [math.prod(self.device_matrix[axis] for axis in axes) for axes in self.axes]
        if counts:
            counts[0] *= self.optimizer_shards
        return tuple(size * count for size, count in zip(local_shape, counts, strict=True))


def read_strategy(path: Path) -> dict[str, RankLayout]:
    """The layouts of a strategy file, by parameter. Raises InputError when it is damaged or not supported."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            return dict(_layouts(file, size))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except DamagedMessage as error:
        raise InputError(f"{path} is no strategy file of MindSpore, or it is damaged: {error}") from None


def whole_layout(num_dims: int) -> RankLayout:
    """Of a tensor that every rank holds whole."""
    return RankLayout(device_matrix=(1,), axes=((),) * num_dims)


def _layouts(file: BinaryIO, size: int) -> Iterator[tuple[str, RankLayout]]:
    for item in fields(file, 0, size):
        if item.number != _LAYOUT_ITEM or item.wire_type != BYTES:
            continue
        name, layout = "", None
        for part in fields(file, item.begin, item.end):
            if part.number == _PARAMETER:
                name = read_bytes(file, part, limit=_MAX_NAME_BYTES).decode("utf-8", "replace")
            elif part.number == _LAYOUTS and part.wire_type == BYTES:
                layout = part
        if not name or layout is None:
            raise DamagedMessage(f"a parameter without name or layout at byte {item.begin}")
        stage, separator, rest = name.partition("-")
        yield rest if separator and stage.isdigit() else name, _layout(file, name, layout)


def _layout(file: BinaryIO, name: str, message: Field) -> RankLayout:
    maps: list[list[int]] = []
    found: dict[int, list[int]] = {_DEVICE_MATRIX: [], _FIELD: [0], _SHARD_STEP: [0], _SHARD_SIZE: [0]}
    for part in fields(file, message.begin, message.end):
        if part.number == _TENSOR_MAP:
            maps.append(_dims(file, part))
        elif part.number == _DEVICE_MATRIX:
            found[_DEVICE_MATRIX] = _dims(file, part)
        elif part.number in found:
            found[part.number] = integers(file, part)
    matrix = tuple(found[_DEVICE_MATRIX])
    if not matrix or any(size < 1 for size in matrix) or any(number[-1:] == [] for number in found.values()):
        raise DamagedMessage(f"{name} has the device matrix {list(matrix)}")
    if found[_FIELD][-1] > 0:
        raise DamagedMessage(f"{name} is cut by fields, which is not supported")
    by_dim = [[axis] for axis in maps[0]] if len(maps) == 1 else maps
    axes = tuple(tuple(len(matrix) - 1 - axis for axis in dim if axis != -1) for dim in by_dim)
    if any(not 0 <= axis < len(matrix) for dim in axes for axis in dim):
        raise DamagedMessage(f"{name} is cut by an axis that the device matrix {list(matrix)} does not have")
    shards = _optimizer_shards(found[_SHARD_SIZE][-1], found[_SHARD_STEP][-1], matrix, axes)
    return RankLayout(device_matrix=matrix, axes=axes, optimizer_shards=shards)


def _optimizer_shards(size: int, step: int, matrix: tuple[int, ...], axes: tuple[tuple[int, ...], ...]) -> int:
    if step == 0 or size == 0:
        return 1
    cut = {axis for dim in axes for axis in dim}
    alike = math.prod(count for axis, count in enumerate(matrix) if axis not in cut)
    return alike if size == -1 else size


def _dims(file: BinaryIO, message: Field) -> list[int]:
    return [number for part in fields(file, message.begin, message.end) for number in integers(file, part)]


def _coordinates(rank: int, matrix: tuple[int, ...]) -> tuple[int, ...]:
    out: list[int] = []
    for size in reversed(matrix):
        rank, at = divmod(rank, size)
        out.insert(0, at)
    return tuple(out)


def _number(axes: tuple[int, ...], coordinates: tuple[int, ...], matrix: tuple[int, ...]) -> int:
    """The coordinates along `axes` as one number, the first axis counting most."""
    number = 0
    for axis in axes:
        number = number * matrix[axis] + coordinates[axis]
    return number
