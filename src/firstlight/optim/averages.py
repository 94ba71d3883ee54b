"""Averages of the weights in host memory, sharded as the weights are."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from firstlight.config.averages import AveragesConfig, PmaConfig
from firstlight.optim.kept_moments import local_of, put_away
from firstlight.optim.rule import Keeping

_IN_HOST = Keeping(in_host=True, in_bf16=False, is_fused=False)


class MovingAverage:
    """The exponential moving average of `live` tensors, which starts as they are.

    Where they are not in host memory, they are copied there and averaged by a thread while training goes on; `tensors`
    and the next update wait for it. The result is the same to the bit.
    """

    def __init__(self, live: Mapping[str, Tensor], decay: float, *, is_asynchronous: bool) -> None:
        self._live = dict(live)
        self._share = 1 - decay
        self._average = {name: put_away(tensor, _IN_HOST) for name, tensor in live.items()}
        self._copies = {name: torch.empty_like(local_of(tensor)) for name, tensor in self._average.items()}
        if not is_asynchronous:
            self._copies = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ema") if is_asynchronous else None
        self._pending: Future[None] | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Take the tensors as they are now."""
        if self._thread is None:
            self._add({name: local_of(tensor).to("cpu") for name, tensor in self._live.items()})
            return
        self._settle()
        for name, tensor in self._live.items():
            self._copies[name].copy_(local_of(tensor), non_blocking=True)
        self._pending = self._thread.submit(self._add_copies, _arrival(self._live))

    def tensors(self) -> dict[str, Tensor]:
        """The average as of the last update."""
        self._settle()
        return dict(self._average)

    def _settle(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _add_copies(self, wait: Callable[[], None]) -> None:
        wait()
        self._add(self._copies)

    @torch.no_grad()
    def _add(self, blocks: Mapping[str, Tensor]) -> None:
        for name, block in blocks.items():
            local_of(self._average[name]).lerp_(block, self._share)


class MergedWeights:
    """Every `interval_steps` the `live` tensors are taken in, and the average of `count` of them is put in their place
    (PMA). `updates` is how many updates there were before the one that was just made."""

    def __init__(self, live: Mapping[str, Tensor], config: PmaConfig, updates: Callable[[], int]) -> None:
        self._live = dict(live)
        self._config = config
        self._updates = updates
        self._merged = {name: put_away(torch.zeros_like(tensor), _IN_HOST) for name, tensor in live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the tensors in, and give them back merged, when it is time."""
        times, is_between = divmod(self._updates() + 1, self._config.interval_steps)
        if is_between:
            return
        place = (times - 1) % self._config.count
        for name, tensor in self._live.items():
            merged, live = local_of(self._merged[name]), local_of(tensor)
            merged.lerp_(live.to("cpu"), self._share(place))
            if place == self._config.count - 1:
                live.copy_(merged)

    def tensors(self) -> dict[str, Tensor]:
        """What is merged so far."""
        return dict(self._merged)

    def _share(self, place: int) -> float:
        """Of the weights that are the `place`-th of their average, from 0."""
        if place == 0:
            return 1.0
        return 1 / (place + 1) if self._config.weighting == "mean" else self._config.alpha


class Averages:
    """The averages that a run has: `ema/...` of parameters and buffers, `pma/...` of parameters."""

    def __init__(
        self,
        config: AveragesConfig,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        updates: Callable[[], int],
    ) -> None:
        self._kinds: dict[str, MergedWeights | MovingAverage] = {}
        if config.pma is not None:
            # First: the moving average is of the weights with which training goes on.
            self._kinds["pma"] = MergedWeights(_detached(parameters), config.pma, updates)
        if config.ema is not None:
            live = _detached({**parameters, **buffers})
            is_elsewhere = any(tensor.device.type != "cpu" for tensor in live.values())
            self._kinds["ema"] = MovingAverage(live, config.ema.decay, is_asynchronous=is_elsewhere)

    def update(self) -> None:
        """Call it after each applied update."""
        for average in self._kinds.values():
            average.update()

    def tensors(self) -> dict[str, Tensor]:
        """All of them, by their names in checkpoints."""
        return {
            f"{kind}/{name}": tensor
            for kind, average in self._kinds.items()
            for name, tensor in average.tensors().items()
        }


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _arrival(live: Mapping[str, Tensor]) -> Callable[[], None]:
    """Waits until what has been asked of the tensors' device so far is done."""
    device = next(iter(live.values())).device
    if device.type == "cpu":
        return lambda: None
    event = torch.Event(device)
    event.record()
    return event.synchronize
