"""Bytes from rank to rank, for rooms that have something to pass on: tensors of uint8, never objects."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class RankCarrier:
    """Carries over the process group of the run."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def texts(self, text: str) -> list[str]:
        """The texts of all ranks, by rank."""
        content = text.encode()
        sizes = torch.zeros(self.size, dtype=torch.int64, device=self._device)
        sizes[self.rank] = len(content)
        dist.all_reduce(sizes)
        longest = max(int(sizes.max()), 1)
        mine = torch.zeros(longest, dtype=torch.uint8, device=self._device)
        mine[: len(content)] = self._tensor(memoryview(content))
        all_of_them = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(all_of_them, mine)
        return [bytes(_view(one)[:size]).decode() for one, size in zip(all_of_them, sizes.tolist(), strict=True)]

    def shift(self, content: memoryview, distance: int, num_bytes: int) -> memoryview:
        """Send `content` so many ranks on, and return the `num_bytes` that the rank so far behind sends."""
        received = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        acts = []
        if len(content):
            acts.append(dist.P2POp(dist.isend, self._tensor(content), (self.rank + distance) % self.size))
        if num_bytes:
            acts.append(dist.P2POp(dist.irecv, received, (self.rank - distance) % self.size))
        for work in dist.batch_isend_irecv(acts) if acts else []:
            work.wait()
        return _view(received)

    def broadcast(self, content: memoryview | None, source: int, num_bytes: int) -> memoryview:
        """The content that rank `source` has, on all ranks."""
        out = (
            torch.empty(num_bytes, dtype=torch.uint8, device=self._device) if content is None else self._tensor(content)
        )
        dist.broadcast(out, source)
        return _view(out)

    def _tensor(self, content: memoryview) -> Tensor:
        if not len(content):
            return torch.empty(0, dtype=torch.uint8, device=self._device)
        return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self._device)


def _view(tensor: Tensor) -> memoryview:
    array: Any = tensor.cpu().numpy()
    return memoryview(array)
