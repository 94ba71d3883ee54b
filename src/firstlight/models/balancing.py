"""Auxiliary-loss-free load balancing: the router's bias follows the load of each whole global batch."""

from collections.abc import Mapping

import torch
from torch import Tensor

from firstlight.config.router import SigmoidRouter
from firstlight.config.schedule import Now, unscheduled
from firstlight.models.router import TopKRouter


class BiasBalancing:
    """b_i += rate * sign(mean load - load_i), once after each optimizer step (DeepSeek-V3, section 2.1.2).

    A router that has no such bias is observed and left alone: its balance loss works through the gradient.
    `now` is the rate for the step to come.
    """

    def __init__(self, routers: Mapping[str, TopKRouter], now: Now = unscheduled) -> None:
        self._routers = dict(routers)
        self._now = now
        self._load_me: Tensor | None = None

    @property
    def layer_names(self) -> list[str]:
        """The mixture layers in the order of the load's rows."""
        return list(self._routers)

    def observe(self, load_me: Tensor) -> None:
        """Take the tokens per expert [mixture layers, experts] of one global batch, summed over all ranks."""
        self._load_me = load_me

    @torch.no_grad()
    def update(self) -> None:
        """Move every bias by the load observed last, which is then used up."""
        if self._load_me is None:
            return
        for router, load_e in zip(self._routers.values(), self._load_me, strict=True):
            if router.bias is None or not isinstance(router.config, SigmoidRouter):
                continue
            direction_e = torch.sign(load_e.mean() - load_e).to(router.bias.dtype)
            router.bias.add_(direction_e, alpha=self._now(router.config.bias_update_rate))
        self._load_me = None


def max_violation(load_me: Tensor) -> Tensor:
    """MaxVio of each layer, [m]: the largest load over the mean load, minus one. `load_me` is floating."""
    return load_me.amax(-1) / load_me.mean(-1) - 1
