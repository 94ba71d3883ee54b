"""The layouts of name tables (`models/names.py`) as operations on tensors, both ways. Every one only moves numbers."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from firstlight.models.names import Entry, TensorLayout

Tensors = Sequence[Tensor]
Shapes = Sequence[Sequence[int]]


def to_theirs(entry: Entry, ours: Tensors) -> list[Tensor]:
    """An entry's tensors of the other tool, made of ours; views where that is possible."""
    return _TO_THEIRS[entry.layout](ours, entry.groups)


def to_ours(entry: Entry, theirs: Tensors, shapes: Shapes) -> list[Tensor]:
    """The tensors of ours that an entry has, of `shapes`, made of the other tool's; views where that is possible."""
    return _TO_OURS[entry.layout](theirs, shapes, entry.groups)


def _interleave(tensors: Tensors) -> Tensor:
    return torch.stack(tuple(tensors), dim=-1).flatten(-2)


def _deinterleave(tensor: Tensor, parts: int) -> list[Tensor]:
    return [tensor[..., part::parts] for part in range(parts)]


def _interleave_rows(tensors: Tensors) -> Tensor:
    return torch.stack(tuple(tensors), dim=1).flatten(0, 1)


def _group(tensors: Tensors, groups: int) -> Tensor:
    return torch.cat([tensor.unflatten(0, (groups, -1)) for tensor in tensors], dim=1).flatten(0, 1)


def _ungroup(tensor: Tensor, shapes: Shapes, groups: int) -> list[Tensor]:
    parts = tensor.unflatten(0, (groups, -1)).split([shape[0] // groups for shape in shapes], dim=1)
    return [part.flatten(0, 1) for part in parts]


def _swap(tensors: Tensors) -> list[Tensor]:
    return [tensor.transpose(-2, -1) for tensor in tensors]


def _join_transposed(tensors: Tensors) -> Tensor:
    return torch.cat(_swap(tensors), dim=-1)


def _split_transposed(tensor: Tensor, shapes: Shapes) -> list[Tensor]:
    return _swap(tensor.split([shape[-2] for shape in shapes], dim=-1))


def _unflatten(tensor: Tensor, shapes: Shapes) -> Tensor:
    out: Tensor = tensor.unflatten(0, (shapes[0][0], -1))
    return out


_TO_THEIRS: Mapping[TensorLayout, Callable[[Tensors, int], list[Tensor]]] = {
    "same": lambda ours, _groups: list(ours),
    "per_expert": lambda ours, _groups: list(ours[0].unbind(0)),
    "joined": lambda ours, _groups: [torch.cat(tuple(ours))],
    "grouped": lambda ours, groups: [_group(ours, groups)],
    "interleaved_rows": lambda ours, _groups: [_interleave_rows(ours)],
    "transposed": lambda ours, _groups: _swap(ours),
    "interleaved": lambda ours, _groups: [_interleave(ours)],
    "interleaved_transposed": lambda ours, _groups: [_interleave(_swap(ours))],
    "transposed_joined": lambda ours, _groups: [_join_transposed(ours)],
    "flat_transposed": lambda ours, _groups: [tensor.flatten(0, 1) for tensor in _swap(ours)],
    "flat_transposed_joined": lambda ours, _groups: [_join_transposed(ours).flatten(0, 1)],
}

_TO_OURS: Mapping[TensorLayout, Callable[[Tensors, Shapes, int], list[Tensor]]] = {
    "same": lambda theirs, _shapes, _groups: list(theirs),
    "per_expert": lambda theirs, _shapes, _groups: [torch.stack(tuple(theirs))],
    "joined": lambda theirs, shapes, _groups: list(theirs[0].split([shape[0] for shape in shapes])),
    "grouped": lambda theirs, shapes, groups: _ungroup(theirs[0], shapes, groups),
    "interleaved_rows": lambda theirs, shapes, _groups: [theirs[0][at :: len(shapes)] for at in range(len(shapes))],
    "transposed": lambda theirs, _shapes, _groups: _swap(theirs),
    "interleaved": lambda theirs, shapes, _groups: _deinterleave(theirs[0], len(shapes)),
    "interleaved_transposed": lambda theirs, shapes, _groups: _swap(_deinterleave(theirs[0], len(shapes))),
    "transposed_joined": lambda theirs, shapes, _groups: _split_transposed(theirs[0], shapes),
    "flat_transposed": lambda theirs, shapes, _groups: _swap([_unflatten(theirs[0], shapes)]),
    "flat_transposed_joined": lambda theirs, shapes, _groups: _split_transposed(_unflatten(theirs[0], shapes), shapes),
}
