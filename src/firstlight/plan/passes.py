"""Seconds of one micro-batch through one stage: computation, and communication that nothing hides."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from firstlight.config.model import MoeFeedForward
from firstlight.config.recompute import FullRecompute, ModuleRecompute, NoRecompute, SelectiveRecompute
from firstlight.layout.experts import ExpertGroups
from firstlight.layout.layer_communication import calls_of_ends, calls_of_layer, layers_of
from firstlight.layout.stages import Stage
from firstlight.layout.traffic import Traffic
from firstlight.plan.hardware import Hardware
from firstlight.plan.links import Group, exchange_seconds, group_on, seconds_of_call
from firstlight.plan.operations import Operation, operations_of_ends, operations_of_layer
from firstlight.plan.work import Work

_ROWS = "rows to experts and back"
_HALF_EFFICIENT = 96
"""The smallest side of a product at which it reaches half of what large ones do."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Seconds. `input` and `weight` are the two parts of a backward pass; `exchange` is what of the transfers of rows
    could be hidden behind the other pass of a pair."""

    forward: float = 0.0
    input: float = 0.0
    weight: float = 0.0
    forward_exchange: float = 0.0
    backward_exchange: float = 0.0
    forward_transfers: float = 0.0
    """Of tensor and context groups, where nothing hides them. Part of no other."""
    backward_transfers: float = 0.0

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(Passes)})

    @property
    def whole_forward(self) -> float:
        """With all that is waited for."""
        return self.forward + self.forward_transfers + self.forward_exchange

    @property
    def whole_input(self) -> float:
        """Of the backward pass, the part that the stage before waits for."""
        return self.input + self.backward_transfers + self.backward_exchange

    @property
    def whole_backward(self) -> float:
        """Both parts."""
        return self.whole_input + self.weight


LayerKind = tuple[bool, int | None, bool, bool]
"""What makes layers differ: a mixture, its window, of multi-token prediction, computed again."""


def passes_of_stages(work: Work, hardware: Hardware) -> list[Passes]:
    """Of each stage: its layers, and the embedding and head that it has."""
    kinds: dict[LayerKind, Passes] = {}
    return [_of_stage(work, hardware, stage, kinds) for stage in work.stages]


def passes_of_stage(work: Work, hardware: Hardware, stage: Stage) -> Passes:
    """Of one stage."""
    return _of_stage(work, hardware, stage, {})


def _of_stage(work: Work, hardware: Hardware, stage: Stage, kinds: dict[LayerKind, Passes]) -> Passes:
    found = _ends(work, hardware, stage)
    for layer in layers_of(work.model, stage):
        is_recomputed = not isinstance(work.recompute, NoRecompute) and work.recompute.layers.contains(layer)
        is_ahead = layer >= work.model.num_hidden_layers
        key = work.model.is_moe_layer(layer), work.model.attention.window_of(layer), is_ahead, is_recomputed
        if key not in kinds:
            kinds[key] = _of_layer(work, hardware, layer)
        found = found + kinds[key]
    return found


def seconds_of_operation(hardware: Hardware, one: Operation, share: float = 1.0) -> float:
    """Of `share` times the operation's FLOPs and bytes: what takes longer, arithmetic or memory."""
    memory = one.size / (hardware.memory_bandwidth.value * hardware.efficiency.memory.value)
    return share * max(one.flops / _speed(hardware, one, is_backward=False), memory) + _launch_seconds(hardware, one)


def _launch_seconds(hardware: Hardware, one: Operation) -> float:
    return one.launches * hardware.launch_seconds.value


def _backward_seconds(hardware: Hardware, one: Operation) -> float:
    memory = one.size / (hardware.memory_bandwidth.value * hardware.efficiency.memory.value)
    arithmetic = one.flops / _speed(hardware, one, is_backward=True)
    return one.backward * (max(arithmetic, memory) + _launch_seconds(hardware, one))


def _speed(hardware: Hardware, one: Operation, *, is_backward: bool) -> float:
    """FLOP/s."""
    efficiency = hardware.efficiency
    if one.kind == "attention":
        reached = efficiency.attention_backward if is_backward else efficiency.attention_forward
        return hardware.peak.get("bf16", hardware.peak["fp32"]).value * reached.value
    precision = one.precision if one.precision in hardware.peak else "bf16"
    small = one.smallest / (one.smallest + _HALF_EFFICIENT)
    return hardware.peak[precision].value * efficiency.products[precision].value * small


def _of_layer(work: Work, hardware: Hardware, layer: int) -> Passes:
    operations = operations_of_layer(work, layer)
    shared = [one for one in operations if ".shared_expert." in one.what]
    forward, again = sum(seconds_of_operation(hardware, one) for one in operations), _again(work, hardware, layer)
    weight = sum(_backward_seconds(hardware, one) / 2 for one in operations if one.has_weight)
    backward = sum(_backward_seconds(hardware, one) for one in operations)
    calls = calls_of_layer(work.model, work.layout, work.step, layer, work.repeated)
    hidden = sum(seconds_of_operation(hardware, one) for one in shared)
    is_hidden = work.practice.hides_experts == "shared_expert"
    exchanges = [_exchange_seconds(work, hardware, traffic) for traffic in calls]
    beside = (hidden, sum(_backward_seconds(hardware, one) for one in shared)) if is_hidden else (0.0, 0.0)
    return Passes(
        forward=forward,
        input=backward - weight + again,
        weight=weight,
        forward_exchange=max(0.0, exchanges[0] - beside[0]),
        backward_exchange=max(0.0, exchanges[1] - beside[1]),
        forward_transfers=_transfer_seconds(work, hardware, calls[0]),
        backward_transfers=_transfer_seconds(work, hardware, calls[1]),
    )


def _ends(work: Work, hardware: Hardware, stage: Stage) -> Passes:
    operations = operations_of_ends(work, stage)
    weight = sum(_backward_seconds(hardware, one) / 2 for one in operations if one.has_weight)
    transfers = _transfer_seconds(work, hardware, list(calls_of_ends(work.model, work.layout, work.step, stage)))
    return Passes(
        forward=sum(seconds_of_operation(hardware, one) for one in operations),
        input=sum(_backward_seconds(hardware, one) for one in operations) - weight,
        weight=weight,
        forward_transfers=transfers / 2,
        backward_transfers=transfers / 2,
    )


def _again(work: Work, hardware: Hardware, layer: int) -> float:
    """What the backward pass computes once more."""
    recompute, operations = work.recompute, operations_of_layer(work, layer)
    if isinstance(recompute, NoRecompute) or not recompute.layers.contains(layer):
        repeated: list[Operation] = []
        if work.practice.attention == "matrix":
            repeated = [one for one in operations if one.what == "attention"]
    else:
        repeated = [one for one in operations if _is_repeated(one, recompute)]
    return sum(seconds_of_operation(hardware, one) for one in repeated)


def _is_repeated(one: Operation, recompute: FullRecompute | ModuleRecompute | SelectiveRecompute) -> bool:
    name = f".{one.what}."
    match recompute:
        case FullRecompute():
            return True
        case ModuleRecompute(modules=modules):
            of_attention = one.kind == "attention" and "attention" in modules
            return of_attention or any(f".{module}." in name for module in modules)
        case SelectiveRecompute(kept=kept, repeated_in=within):
            if one.kind == "pointwise":
                return one.what != "rows sorted"
            named = [own for part in within for own in _MODULES.get(part, (part,))]
            if any(f".{own}." in name for own in named):
                return True
            return ("attention" if one.kind == "attention" else "products") not in kept


_MODULES = {"latent_up_projection": ("q_b_proj", "kv_b_proj")}


def _transfer_seconds(work: Work, hardware: Hardware, calls: Iterable[Traffic]) -> float:
    """Of calls in tensor and context groups."""
    found = 0.0
    for one in calls:
        if one.what == _ROWS and one.axis == "ep":
            continue
        group = group_on(work.layout, one.axis, hardware.ranks_per_node)
        seconds = one.calls * seconds_of_call(hardware, group, one.kind, one.bytes / one.calls)
        found += seconds * (1 - work.practice.hides_tensor if one.axis == "tp" else 1)
    return found


def _exchange_seconds(work: Work, hardware: Hardware, calls: Iterable[Traffic]) -> float:
    """Of rows to experts and back."""
    group = group_on(work.layout, "ep", hardware.ranks_per_node)
    crossing = _crossing(work, hardware, group)
    practice = work.practice
    widths = (practice.dispatch_bytes + practice.numbers.product) / (2 * practice.number_bytes)
    link = hardware.links.node if group.is_within_node else hardware.links.cluster
    found = 0.0
    for one in calls:
        if one.what == _ROWS and one.axis == "ep" and group.size > 1:
            latency = one.calls * link.latency_seconds.value * group.size / max(1, group.local)
            found += latency + exchange_seconds(hardware, group, one.bytes * widths, crossing=crossing)
    return found


def _crossing(work: Work, hardware: Hardware, group: Group) -> float:
    """The share of rows that go over the network where a token's row crosses once for each node."""
    mixture = work.model.feed_forward
    if not work.practice.sends_rows_once_per_node or not isinstance(mixture, MoeFeedForward) or group.is_within_node:
        return 1.0
    nodes = group.size // group.local
    top_k = mixture.router.num_experts_per_tok
    groups = ExpertGroups.of(work.model, work.layout, hardware.ranks_per_node)
    reachable = min(nodes, groups.nodes_of_a_token()) if groups is not None else nodes
    # As many of them as so many experts, chosen at random, are expected to lie on.
    reached = reachable * (1 - (1 - 1 / reachable) ** top_k)
    return min(1.0, reached / top_k)
