"""Numbers that stand for the bytes of tensors, computed where the tensors are; and the same numbers of all ranks.

A digest is the sum, modulo 2^64, of the tensor's 8-byte words, each times an odd number that belongs to its place: one
word that differs always shows, several cancel each other once in 2^63. Integers, so the order of adding is no matter.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

_WORDS = 1 << 18
"""Words that are worked on at once, 2 MiB."""
_GOLDEN = -7046029254386353131
_MIX = -4658895280553007687
_NAME_BYTES = 200


class Digests:
    """Digests of tensors of any type."""

    def __init__(self) -> None:
        self._weights: dict[torch.device, Tensor] = {}

    @torch.no_grad()
    def of(self, tensor: Tensor) -> Tensor:
        """int64 [], on the tensor's device; two tensors of the same bytes have the same."""
        words = _words(tensor)
        weights = self._weights_on(words.device)
        total = words.new_zeros(())
        for begin in range(0, len(words), _WORDS):
            part = words[begin : begin + _WORDS]
            total = total * _MIX + (part * weights[: len(part)]).sum()
        return total

    def _weights_on(self, device: torch.device) -> Tensor:
        if device not in self._weights:
            mixed = torch.arange(1, _WORDS + 1, dtype=torch.int64, device=device) * _GOLDEN
            self._weights[device] = ((mixed ^ (mixed >> 29)) * _MIX) | 1
        return self._weights[device]


def _words(tensor: Tensor) -> Tensor:
    """The bytes as int64 [n], the last word filled up with zeros."""
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    missing = -len(content) % 8
    if missing:
        content = torch.cat([content, content.new_zeros(missing)])
    # A view of a larger tensor may begin between two words.
    return content.view(torch.int64) if content.data_ptr() % 8 == 0 else content.clone().view(torch.int64)


def number_of(name: str) -> int:
    """A number that stands for a text in an int64; never 0."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True) or 1


def gather_numbers(named: Mapping[str, Tensor], device: torch.device) -> NDArray[np.int64]:
    """[ranks, most, 2]: for each rank the numbers of the names and what stands under them, then zeros. Collective."""
    size = torch.tensor([len(named)], dtype=torch.int64, device=device)
    dist.all_reduce(size, op=dist.ReduceOp.MAX)
    mine = torch.zeros(max(int(size), 1), 2, dtype=torch.int64, device=device)
    if named:
        mine[: len(named), 0] = torch.tensor([number_of(name) for name in named], dtype=torch.int64, device=device)
        mine[: len(named), 1] = torch.stack([value.to(device) for value in named.values()])
    everywhere = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, mine)
    return torch.stack(everywhere).cpu().numpy()


def say_to_all(text: str, speaker: int, device: torch.device) -> str:
    """What rank `speaker` has for `text`, on every rank, cut to 200 bytes. Collective."""
    content = text.encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")
    letters = torch.tensor(list(content), dtype=torch.uint8, device=device)
    dist.broadcast(letters, src=speaker)
    return bytes(letters.tolist()).rstrip(b"\0").decode(errors="replace")


def differing(everywhere: NDArray[np.int64]) -> dict[int, dict[int, int]]:
    """Of what `gather_numbers` gave: by the number of each name under which ranks have different values, those of all
    ranks that have it."""
    ranks, most, _ = everywhere.shape
    flat = everywhere.reshape(-1, 2)
    rank_of = np.repeat(np.arange(ranks), most)
    order = np.argsort(flat[:, 0], kind="stable")
    names, values = flat[order, 0], flat[order, 1]
    is_same_name = (names[1:] == names[:-1]) & (names[1:] != 0)
    bad = np.unique(names[1:][is_same_name & (values[1:] != values[:-1])])
    places = {number: order[names == number] for number in bad.tolist()}
    return {
        number: dict(zip(rank_of[where].tolist(), flat[where, 1].tolist(), strict=True))
        for number, where in places.items()
    }
