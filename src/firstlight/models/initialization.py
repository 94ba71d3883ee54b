"""Initial values as a function of the seed and the parameter's name only: the same for every layout."""

import hashlib

import torch
from torch import Tensor

_STACKED_DIMS = 3
"""Stacked experts: each index of the first dimension draws on its own, so a rank can make its experts alone."""

_ZERO = ("bias", "sinks")
"""How names of parameters end that start at zero. An expert's bias is a row of a matrix."""


def initial_slice(name: str, shape: torch.Size, rows: slice, *, std: float, seed: int) -> Tensor:
    """Rows `rows` (of the first dimension) of the initial value of parameter `name`, fp32 on CPU.

    Matrices are normal with standard deviation `std`, norm weights are one, biases and attention sinks zero.
    """
    if name.endswith(_ZERO):
        return torch.zeros(shape)[rows]
    if len(shape) == 1:
        return torch.ones(shape)[rows]
    if len(shape) == _STACKED_DIMS:
        indices = range(*rows.indices(shape[0]))
        drawn = [_normal(f"{name}[{index}]", shape[1:], std=std, seed=seed) for index in indices]
        return torch.stack(drawn) if drawn else torch.empty(0, *shape[1:])
    return _normal(name, shape, std=std, seed=seed)[rows]


def _normal(name: str, shape: torch.Size, *, std: float, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(shape, generator=generator) * std
