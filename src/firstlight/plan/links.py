"""How long calls between ranks take on a network of nodes: a latency for each doubling of a group, and bytes over the
slowest link."""

import math
from dataclasses import dataclass

from firstlight.layout.mesh import Layout
from firstlight.layout.traffic import Kind
from firstlight.plan.hardware import Hardware, Link


@dataclass(frozen=True, kw_only=True)
class Group:
    """Ranks that talk, of which `local` share the first one's node."""

    size: int
    local: int

    @property
    def is_within_node(self) -> bool:
        """Whether no call of it leaves a node."""
        return self.local >= self.size


def group_on(layout: Layout, axis: str, ranks_per_node: int) -> Group:
    """The group of the first rank; those of other ranks lie alike where degrees divide nodes."""
    ranks = range(layout.world_size) if axis == "world" else layout.group(axis, 0)
    return Group(size=len(ranks), local=max(1, len(range(ranks.start, min(ranks.stop, ranks_per_node), ranks.step))))


def seconds_of_call(hardware: Hardware, group: Group, kind: Kind, size: float) -> float:
    """Of one call whose larger side has `size` bytes on a rank."""
    if group.size == 1 or kind == "receive":
        return 0.0  # a message is counted where it is sent
    link = hardware.links.node if group.is_within_node else hardware.links.cluster
    latency = link.latency_seconds.value * max(1.0, math.log2(group.size))
    others = (group.size - 1) / group.size
    match kind:
        case "all_gather" | "reduce_scatter":
            return latency + size * others / _collective_bandwidth(hardware, group)
        case "all_reduce":
            return 2 * (latency + size * others / _collective_bandwidth(hardware, group))
        case "all_to_all":
            return latency + exchange_seconds(hardware, group, size, crossing=1.0)
        case _:
            return link.latency_seconds.value + size / _reached(link)


def exchange_seconds(hardware: Hardware, group: Group, size: float, *, crossing: float) -> float:
    """Of an all-to-all, without latency: what stays in the node and what leaves it travel at once. Of what leaves, the
    share `crossing` goes over the network, and the rest is copied within the other node."""
    within, away = (group.local - 1) / group.size, (group.size - group.local) / group.size
    node, cluster = (
        link.bandwidth.value * link.exchange_efficiency.value for link in (hardware.links.node, hardware.links.cluster)
    )
    return max(size * (within + away * (1 - crossing)) / node, size * away * crossing / cluster)


def _collective_bandwidth(hardware: Hardware, group: Group) -> float:
    """A ring enters and leaves each node once for every member that it has there."""
    node = _reached(hardware.links.node)
    return node if group.is_within_node else min(node, group.local * _reached(hardware.links.cluster))


def _reached(link: Link) -> float:
    return link.bandwidth.value * link.efficiency.value
