"""The embedding of the last stage: multi-token prediction looks tokens up in it, a tied head is it.

The first stage owns the embedding. The last one has a copy, without a place in the optimizer or in checkpoints: its
gradient is added to the owner's, and before each use its values are the owner's.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from firstlight.models.decoder import Decoder

NAME = "embedding.weight"


class EmbeddingCopy:
    """Both ends on the ranks that have them, which may be one rank; between, there is nothing to do."""

    def __init__(self, stages: list[Decoder], group: dist.ProcessGroup, *, is_v_shaped: bool) -> None:
        """The first stage is on the first rank of the pipeline's `group`; the last one, too, or on the last rank."""
        self._group = group
        self._owner, self._holder = 0, 0 if is_v_shaped else group.size() - 1
        self._first = next((stage for stage in stages if stage.stage.is_first), None)
        self._last = next((stage for stage in stages if stage.stage.is_last), None)
        self._is_needed = stages[0].config.tie_word_embeddings or stages[0].config.num_mtp_layers > 0

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the copy the values of its owner."""
        if not self._is_needed:
            return
        if self._first is not None and self._last is not None:
            _local(_weight(self._last)).copy_(_local(_weight(self._first)))
        elif self._first is not None:
            dist.send(_local(_weight(self._first)), group=self._group, group_dst=self._holder)
        elif self._last is not None:
            dist.recv(_local(_weight(self._last)), group=self._group, group_src=self._owner)

    @torch.no_grad()
    def return_gradient(self) -> None:
        """Add the gradient of the copy to that of its owner."""
        if not self._is_needed:
            return
        if self._last is not None:
            weight = _weight(self._last)
            assert weight.grad is not None, "the last stage has used its embedding"
            gradient = _local(weight.grad)
            if self._first is None:
                dist.send(gradient, group=self._group, group_dst=self._owner)
            weight.grad = None
        if self._first is not None:
            own = _weight(self._first).grad
            assert own is not None, "the first stage has used its embedding"
            if self._last is None:
                gradient = torch.empty_like(_local(own))
                dist.recv(gradient, group=self._group, group_src=self._holder)
            _local(own).add_(gradient)


def is_copy(stage: Decoder, name: str) -> bool:
    """Whether the parameter `name` of `stage` is owned by another stage."""
    return name == NAME and not stage.stage.is_first


def _weight(stage: Decoder) -> nn.Parameter:
    weight = stage.embedding.weight
    assert isinstance(weight, nn.Parameter), "a parameter in every layout"
    return weight


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
