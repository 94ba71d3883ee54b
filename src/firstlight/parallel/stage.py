"""One stage of the pipeline at work: the forward pass that torch's schedules call, and what it measures on the way.

Shapes: b micro-batch, s positions of this rank, d model width, e experts.
"""

from typing import Any

import torch
from torch import Tensor

from firstlight.models.decoder import Decoder, LossSums, join_loads
from firstlight.models.moe import mixture_names
from firstlight.models.places import Inputs
from firstlight.parallel.losses import Normalizers, weigh, weigh_routers


class StageRun:
    """Takes the place of the forward pass of a decoder that is a stage.

    A schedule takes the micro-batches of a stage forward in their order, so it need not say which one it is. What a
    stage gives is the stream for the next one, or the training loss. The balance losses of its mixtures go into the
    backward pass where the stream leaves it.
    """

    def __init__(self, decoder: Decoder, autocast_dtype: torch.dtype | None) -> None:
        self._decoder = decoder
        self._autocast_dtype = autocast_dtype
        self._waiting: list[Inputs] = []
        self._normalizers: Normalizers | None = None
        names = mixture_names(decoder.config)
        own = [f"layers.{layer}" for layer in decoder.stage.layers]
        own += [f"mtp.{depth}.block" for depth in range(len(decoder.mtp))]
        self._rows = [row for row, name in enumerate(names) if name in own]
        self._num_mixtures = len(names)
        self.sums: list[LossSums] = []
        """Of each micro-batch, with a row of loads for each mixture layer of the whole model."""
        setattr(decoder, "forward", self)  # noqa: B010  # as a statement, mypy compares the signatures

    def begin(self, micro_batches: list[Inputs], normalizers: Normalizers | None) -> None:
        """The micro-batches of the next step. Without normalizers nothing is weighed: an evaluation."""
        self._waiting, self._normalizers = list(micro_batches), normalizers
        self.sums = []

    def __call__(self, stream: Tensor) -> Tensor:
        """The first stage is given tokens, which it knows already; another one the stream [b, s, d]."""
        inputs, decoder = self._waiting.pop(0), self._decoder
        is_mixed = self._autocast_dtype is not None
        with torch.autocast(stream.device.type, self._autocast_dtype, enabled=is_mixed):
            hidden_bsd = decoder.embedding(inputs.tokens_bs) if decoder.stage.is_first else stream
            hidden_bsd, loads = decoder.run_layers(hidden_bsd, inputs.places)
            if decoder.stage.is_last:
                sums = decoder.losses(hidden_bsd, loads, inputs)
                self._keep(sums)
                if self._normalizers is None:
                    return sums.lm
                return self._normalizers.scaled(weigh(sums, self._normalizers, decoder.config))
            balance, router_z, load_me = join_loads(loads, hidden_bsd)
            none = hidden_bsd.new_zeros(())
            self._keep(LossSums(none, self._no_mtp(hidden_bsd), none, balance, router_z, load_me))
            if self._normalizers is None or not loads:
                return hidden_bsd
            loss = self._normalizers.scaled(weigh_routers(balance, router_z, self._normalizers, decoder.config))
            out: Tensor = _WithLoss.apply(hidden_bsd, loss)  # type: ignore[no-untyped-call]
            return out

    def _no_mtp(self, like: Tensor) -> Tensor:
        depths = self._decoder.config.num_mtp_layers if self._normalizers is not None else 0
        return like.new_zeros(depths)

    def _keep(self, sums: LossSums) -> None:
        kept = LossSums(*(part.detach() for part in sums))
        load_me = kept.load_me
        experts = load_me.shape[1] if load_me.numel() else _num_experts(self._decoder)
        all_loads_me = load_me.new_zeros(self._num_mixtures, experts)
        if load_me.numel():
            # The layers of multi-token prediction, which may rest, are the last ones.
            all_loads_me[self._rows[: load_me.shape[0]]] = load_me
        self.sums.append(kept._replace(load_me=all_loads_me))


class _WithLoss(torch.autograd.Function):
    """The stream as it is; backward, the loss that hangs on it has the gradient one."""

    @staticmethod
    def forward(_ctx: Any, stream: Tensor, _loss: Tensor) -> Tensor:
        # Not a view of it: schedules that split the backward pass detach what a stage gave in place.
        return stream.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        return gradient, gradient.new_ones(())


def _num_experts(decoder: Decoder) -> int:
    return getattr(decoder.config.feed_forward, "n_routed_experts", 0)
