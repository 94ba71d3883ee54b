"""The largest attention logit of every head of the model in a step, over all micro-batches and ranks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from firstlight.config.model import ModelConfig
from firstlight.layout.mesh import Layout
from firstlight.models.decoder import Decoder
from firstlight.ops.attention_logits import LogitWatch
from firstlight.parallel.apply import attentions
from firstlight.parallel.group import largest_over_ranks


class AttentionLogits:
    """Watches the attention of the stages on this rank, and tells all ranks of the heads of all of them."""

    def __init__(
        self,
        stages: Sequence[Decoder],
        layout: Layout,
        rank: int,
        over_ranks: Callable[[Tensor], Tensor] = largest_over_ranks,
    ) -> None:
        self._config = stages[0].config
        self._names = _layer_names(self._config)
        self._first_head = layout.coordinates(rank)["tp"] * (self._config.attention.num_attention_heads // layout.tp)
        self._device = next(stages[0].parameters()).device
        self._over_ranks = over_ranks
        self._watches: dict[str, LogitWatch] = {}
        for name, attention in attentions(*stages).items():
            attention.logits = self._watches[name] = LogitWatch()
        self._largest: dict[str, Tensor] = {}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Passes inside of the block do not count."""
        for watch in self._watches.values():
            watch.is_paused = True
        try:
            yield
        finally:
            for watch in self._watches.values():
                watch.is_paused = False

    @property
    def largest(self) -> Mapping[str, Tensor]:
        """Of each layer [heads], as last measured, fp64; -inf where a layer had no pass."""
        return self._largest

    def measure(self) -> dict[str, float]:
        """The largest logit of each layer of the model since the last call. One collective, of a number a head."""
        heads = self._config.attention.num_attention_heads
        shape = (len(self._names), heads)
        largest_lh = torch.full(shape, float("-inf"), dtype=torch.float64, device=self._device)
        for row, name in enumerate(self._names):
            watch = self._watches.get(name)
            found_h = None if watch is None else watch.take()
            if found_h is not None:
                largest_lh[row, self._first_head : self._first_head + len(found_h)] = found_h.double()
        largest_lh = self._over_ranks(largest_lh)
        self._largest = dict(zip(self._names, largest_lh, strict=True))
        return dict(zip(self._names, largest_lh.amax(-1).tolist(), strict=True))


def _layer_names(model: ModelConfig) -> list[str]:
    """Of all layers with attention, those of multi-token prediction last."""
    names = [f"layers.{layer}" for layer in range(model.num_hidden_layers)]
    return names + [f"mtp.{depth}.block" for depth in range(model.num_mtp_layers)]
