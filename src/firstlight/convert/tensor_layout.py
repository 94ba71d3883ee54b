"""The layouts of name tables (`models/names.py`) as operations on tensors, both ways. Every one only moves numbers."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from firstlight.models.names import TensorLayout

Tensors = Sequence[Tensor]


def to_theirs(layout: TensorLayout, ours: Tensors) -> list[Tensor]:
    """An entry's tensors of the other tool, made of ours; views where that is possible."""
    return _TO_THEIRS[layout](ours)


def to_ours(layout: TensorLayout, theirs: Tensors, num_ours: int) -> list[Tensor]:
    """The `num_ours` tensors of ours that an entry has, made of the other tool's; views where that is possible."""
    return _TO_OURS[layout](theirs, num_ours)


def _interleave(tensors: Tensors) -> Tensor:
    return torch.stack(tuple(tensors), dim=-1).flatten(-2)


def _deinterleave(tensor: Tensor, parts: int) -> list[Tensor]:
    return [tensor[..., part::parts] for part in range(parts)]


def _swap(tensors: Tensors) -> list[Tensor]:
    return [tensor.transpose(-2, -1) for tensor in tensors]


_TO_THEIRS: Mapping[TensorLayout, Callable[[Tensors], list[Tensor]]] = {
    "same": list,
    "per_expert": lambda ours: list(ours[0].unbind(0)),
    "joined": lambda ours: [torch.cat(tuple(ours))],
    "transposed": _swap,
    "interleaved": lambda ours: [_interleave(ours)],
    "interleaved_transposed": lambda ours: [_interleave(_swap(ours))],
}

_TO_OURS: Mapping[TensorLayout, Callable[[Tensors, int], list[Tensor]]] = {
    "same": lambda theirs, _parts: list(theirs),
    "per_expert": lambda theirs, _parts: [torch.stack(tuple(theirs))],
    "joined": lambda theirs, parts: list(theirs[0].chunk(parts)),
    "transposed": lambda theirs, _parts: _swap(theirs),
    "interleaved": lambda theirs, parts: _deinterleave(theirs[0], parts),
    "interleaved_transposed": lambda theirs, parts: _swap(_deinterleave(theirs[0], parts)),
}
