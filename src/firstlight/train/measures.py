"""What is measured at recorded steps beside loss and time: norms by group of modules, experts, ranks, the device.

Every measure is a few numbers of a rank, added over the ranks in one collective of plain numbers. Gradient norms cost
nothing: the optimizer has computed the parts already.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from firstlight.base.peers import Peers
from firstlight.config.monitor import Measure
from firstlight.config.optimizer import ADAMW_MOMENTS, MUON_MOMENTS
from firstlight.layout.mesh import Layout
from firstlight.models.balancing import max_violation
from firstlight.observe.record import EXPOSED
from firstlight.observe.recorder import Taken
from firstlight.observe.traffic import Traffic
from firstlight.parallel.last_step import LastStep
from firstlight.train.module_groups import GROUPS, group_of, layer_of

_MOMENTS = (*ADAMW_MOMENTS, *MUON_MOMENTS)


class Optimizing(Protocol):
    """What is asked of the optimizer."""

    def gradient_squares(self) -> Mapping[str, float]:
        """Of the last step, this rank's share of the squared norm of each parameter's gradient."""

    def tensors(self) -> Mapping[str, Tensor]:
        """The moments, under `<moment>/<parameter>`."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What there is to measure on this rank."""

    parameters: Mapping[str, nn.Parameter]
    mixture_names: Sequence[str]
    num_layers: int
    copies: Callable[[Tensor], int]
    """How many ranks hold the same block of a tensor."""
    last: LastStep
    health: Callable[[], Mapping[str, float]]
    """Of the device."""
    traffic: Traffic = field(default_factory=Traffic)


@dataclass
class UpdateWatch:
    """Keeps the parameters as they were before an update that is to be measured."""

    parameters: Mapping[str, nn.Parameter]
    is_wanted: bool
    is_expected: bool = False
    before: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def before_update(self) -> None:
        """Called by the optimizer, before it changes anything."""
        if self.is_wanted and self.is_expected:
            self.before = {name: _local(parameter).clone() for name, parameter in self.parameters.items()}


class StepMeasures:
    """Measures the whole run from all ranks; see `observe.recorder.Measures`."""

    def __init__(
        self,
        kinds: Collection[Measure],
        measured: Measured,
        optimizer: Optimizing,
        watch: UpdateWatch,
        *,
        layout: Layout,
        peers: Peers,
    ) -> None:
        self._kinds = frozenset(kinds)
        self._measured = measured
        self._optimizer = optimizer
        self._watch = watch
        self._layout = layout
        self._peers = peers
        self._has_traffic = "communication" in kinds and peers.size > 1

    def expect(self) -> None:
        """The step that begins now will be measured."""
        self._watch.is_expected = True
        self._measured.traffic.forget()

    def span(self, name: str) -> AbstractContextManager[object]:
        """Watches the traffic of a forward and backward pass that will be measured."""
        is_watched = self._has_traffic and self._watch.is_expected and name == "forward_backward"
        return self._measured.traffic.watched() if is_watched else nullcontext()

    @torch.no_grad()
    def take(self, own: Mapping[str, float]) -> Taken:
        """Measure after a step. Collective."""
        squares = self._squares()
        busy, whole = self._busy()
        rank_figures = self._of_rank(own, squares) if "ranks" in self._kinds else {}
        size = self._peers.size
        slots = {name: _slot(value, self._peers.rank, size) for name, value in rank_figures.items()}
        exposed = self._measured.traffic.seconds()
        traffic = [0.0, 0.0] if exposed is None else [exposed, 1.0]
        flat = [*squares.values(), busy, whole, *traffic, *(value for slot in slots.values() for value in slot)]
        summed = iter(self._peers.sum(flat))
        norms = {name: math.sqrt(next(summed)) for name in squares}
        busy, whole, exposed, num_watched = (next(summed) for _ in range(4))
        ranks = {name: [next(summed) for _ in range(size)] for name in slots}
        self._watch.is_expected, self._watch.before = False, {}
        figures = {name: norm for name, norm in norms.items() if norm != 0}
        figures |= self._expert_figures() | _rank_summary(ranks)
        if whole:
            figures["pipeline_bubble"] = 1 - busy / whole
        if num_watched:
            figures[EXPOSED] = exposed / num_watched
        if "device" in self._kinds:
            figures |= {f"device/{name}": value for name, value in self._measured.health().items()}
        return Taken(figures=figures, ranks={name: [_given(one) for one in each] for name, each in ranks.items()})

    def _squares(self) -> dict[str, float]:
        """This rank's shares of squared norms, under the names of the norms; the same names on every rank."""
        gradients = self._optimizer.gradient_squares()
        found = {f"grad_norm/{group}": 0.0 for group in GROUPS} | _by_group("grad_norm", gradients)
        if "layers" in self._kinds:
            found |= {f"layer_grad_norm/{layer}": 0.0 for layer in range(self._measured.num_layers)}
            for name, square in gradients.items():
                if (layer := layer_of(name)) is not None:
                    found[f"layer_grad_norm/{layer}"] += square
        if "weights" in self._kinds:
            weights = self._shares((name, _local(one), one) for name, one in self._measured.parameters.items())
            found |= _by_group("weight_norm", weights)
        if "updates" in self._kinds:
            found |= _by_group("update_norm", self._shares(self._updates()))
        if "optimizer_state" in self._kinds:
            found |= self._moments()
        return found

    def _updates(self) -> Iterable[tuple[str, Tensor, Tensor]]:
        for name, before in self._watch.before.items():
            parameter = self._measured.parameters[name]
            yield name, _local(parameter) - before.to(_local(parameter).device), parameter

    def _moments(self) -> dict[str, float]:
        found = {f"optimizer_norm/{moment}": 0.0 for moment in _MOMENTS}
        named = ((name, _local(tensor), tensor) for name, tensor in self._optimizer.tensors().items())
        for name, square in self._shares(named).items():
            key = f"optimizer_norm/{name.partition('/')[0]}"
            found[key] = found.get(key, 0.0) + square
        return found

    def _shares(self, named: Iterable[tuple[str, Tensor, Tensor]]) -> dict[str, float]:
        """The squared norm of each local block, divided by the number of ranks that hold the same one."""
        names, norms, copies = [], [], []
        for name, block, whole in named:
            if block.numel():
                names.append(name)
                norms.append(torch.linalg.vector_norm(block, dtype=torch.float64))
                copies.append(self._measured.copies(whole))
        values = torch.stack(norms).square().tolist() if norms else []
        return {name: value / copy for name, value, copy in zip(names, values, copies, strict=True)}

    def _busy(self) -> tuple[float, float]:
        clock = self._measured.last.clock
        return clock.seconds() if clock is not None else (0.0, 0.0)

    def _of_rank(self, own: Mapping[str, float], squares: Mapping[str, float]) -> dict[str, float]:
        """This rank's figures; NaN stands for none."""
        own_squares = sum(value for name, value in squares.items() if name.startswith("grad_norm/"))
        figures = {_rank_name(name): value for name, value in own.items()}
        figures["loss"] = self._own_loss()
        figures["grad_norm"] = math.sqrt(own_squares)
        figures["wait_seconds"] = self._measured.last.wait_seconds()
        if self._has_traffic:
            exposed = self._measured.traffic.seconds()
            figures[EXPOSED] = math.nan if exposed is None else exposed
        busy, whole = self._busy()
        if self._layout.pp > 1:
            figures["idle_share"] = 1 - busy / whole if whole else math.nan
        return figures

    def _own_loss(self) -> float:
        """Of the next token, over this rank's targets."""
        last = self._measured.last
        if last.own_lm is None or last.own_targets is None:
            return math.nan
        lm, targets = torch.stack([last.own_lm.double(), last.own_targets.double()]).tolist()
        return lm * self._layout.cp / targets if lm and targets else math.nan

    def _expert_figures(self) -> dict[str, float]:
        """Of each mixture layer: MaxVio, and the entropy of the load as a share of that of an even one."""
        load_me = self._measured.last.load_me
        if load_me is None:
            return {}
        share_me = load_me / load_me.sum(-1, keepdim=True)
        entropy_m = torch.special.entr(share_me).sum(-1) / math.log(load_me.shape[-1])
        both = torch.stack([max_violation(load_me), entropy_m]).tolist()
        found = {}
        for name, violation, entropy in zip(self._measured.mixture_names, *both, strict=True):
            found[f"expert_load/{name}/max_vio"] = violation
            found[f"expert_load/{name}/entropy"] = entropy
        return found


_MISSING = -1.0
"""In the place of what a rank has not: no figure of a rank is negative."""


def _slot(value: float, rank: int, size: int) -> list[float]:
    """Zeros but for this rank's place, so that the sum over ranks is a list of all."""
    slot = [0.0] * size
    slot[rank] = _MISSING if math.isnan(value) else value
    return slot


def _rank_name(name: str) -> str:
    """`seconds/data` is `data_seconds` in the table of ranks."""
    head, _, tail = name.partition("/")
    return f"{tail}_{head}" if tail else head


def _given(value: float) -> float:
    return math.nan if value == _MISSING else value


def _rank_summary(ranks: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """What the records say of the ranks: the most memory that one of them has held."""
    if not ranks:
        return {}
    return {"memory_bytes": max(ranks["memory_bytes"])}


def _by_group(kind: str, squares: Mapping[str, float]) -> dict[str, float]:
    found = {f"{kind}/{group}": 0.0 for group in GROUPS}
    for name, square in squares.items():
        found[f"{kind}/{group_of(name)}"] += square
    return found


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()
