"""Whether ranks that hold the same weights and moments still do, by digests of their bytes."""

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from firstlight.base.log import get_logger
from firstlight.base.peers import Peers
from firstlight.checkpoint.shards import local_shard
from firstlight.parallel.digests import Digests, differing, gather_numbers, number_of, say_to_all

_SHOWN_RANKS = 8


class ReplicaCheck:
    """Compares blocks of tensors that several ranks hold; what one rank alone holds cannot be compared."""

    def __init__(self, copies: Callable[[Tensor], int], peers: Peers, device: torch.device) -> None:
        """`copies`: how many ranks hold the block of a tensor that this rank holds."""
        self._copies = copies
        self._peers = peers
        self._device = device
        self._digests = Digests()

    def find(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Which tensor differs between which ranks, in words that are the same on every rank; None when none does.

        Collective. The tensors are live ones, by their names in checkpoints.
        """
        blocks = {}
        for name, tensor in tensors.items():
            if self._copies(tensor) > 1:
                shard = local_shard(tensor, is_first_rank=False)
                if shard.data.numel():
                    blocks[f"{name} {shard.offset} {tuple(shard.data.shape)}"] = shard.data
        values = {key: self._digests.of(data) for key, data in blocks.items()}
        different = differing(gather_numbers(values, self._device))
        if not different:
            return None
        names = {number_of(key): key.partition(" ")[0] for key in blocks}
        first = min(different)
        told = self._told(different[first], names.get(first, ""))
        others = f", and {len(different) - 1} other blocks" if len(different) > 1 else ""
        return told + others

    def _told(self, of: Mapping[int, int], own_name: str) -> str:
        name = say_to_all(own_name, min(of), self._device)
        counts = Counter(of.values()).most_common()
        if len(counts) > 1 and counts[0][1] == counts[1][1]:
            return f"ranks {_shown(sorted(of))} hold different values of {name}, and no value is that of most"
        wrong = [rank for rank, value in sorted(of.items()) if value != counts[0][0]]
        return f"rank(s) {_shown(wrong)} hold values of {name} that are not those of {counts[0][1]} others"

    def say_coverage(self, tensors: Mapping[str, Tensor]) -> None:
        """Log how much there is to compare. On the first rank."""
        total = sum(local_shard(tensor, is_first_rank=False).data.nbytes for tensor in tensors.values())
        alike = sum(
            local_shard(tensor, is_first_rank=False).data.nbytes
            for tensor in tensors.values()
            if self._copies(tensor) > 1
        )
        if self._peers.rank == 0:
            get_logger().info(
                f"replicas are compared: {alike:,} of the {total:,} bytes of state here are on other ranks as well"
            )


def _shown(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:_SHOWN_RANKS])) + (" ..." if len(ranks) > _SHOWN_RANKS else "")
