"""Which experts lie on which node, and to how many nodes a token's rows can go."""

from collections.abc import Sequence
from dataclasses import dataclass

from firstlight.config.model import ModelConfig, MoeFeedForward
from firstlight.config.router import GroupedRouting
from firstlight.layout.mesh import Layout


@dataclass(frozen=True, kw_only=True)
class ExpertGroups:
    """Groups of experts, of which a router lets a token choose `topk_group`, dealt out over expert groups of ranks.

    Neighbouring experts are on neighbouring ranks, and neighbouring ranks share a node.
    """

    n_routed_experts: int
    n_group: int
    topk_group: int
    expert_parallel: int
    expert_tensor_parallel: int = 1
    ranks_per_node: int

    @classmethod
    def of(cls, model: ModelConfig, layout: Layout, ranks_per_node: int) -> "ExpertGroups | None":
        """None when the router does not limit groups, or every rank has all experts."""
        feed_forward = model.feed_forward
        if not isinstance(feed_forward, MoeFeedForward) or layout.ep == 1:
            return None
        router = feed_forward.router
        if not isinstance(router, GroupedRouting) or router.topk_group == router.n_group:
            return None
        return cls(
            n_routed_experts=feed_forward.n_routed_experts,
            n_group=router.n_group,
            topk_group=router.topk_group,
            expert_parallel=layout.ep,
            expert_tensor_parallel=layout.etp,
            ranks_per_node=ranks_per_node,
        )

    def nodes_of_expert(self, expert: int, first_rank: int = 0) -> set[int]:
        """The nodes of the ranks that have an expert, in the ranks that begin with `first_rank`."""
        place = expert // (self.n_routed_experts // self.expert_parallel)
        first = first_rank + place * self.expert_tensor_parallel
        return {rank // self.ranks_per_node for rank in range(first, first + self.expert_tensor_parallel)}

    def nodes_of(self, group: int, first_rank: int = 0) -> set[int]:
        """The nodes on which a group of experts lies."""
        size = self.n_routed_experts // self.n_group
        experts = range(group * size, (group + 1) * size)
        return set().union(*(self.nodes_of_expert(expert, first_rank) for expert in experts))

    def nodes_of_a_group(self) -> int:
        """The most nodes on which any group lies, in any group of ranks: 1 when each is on one node."""
        return max(len(self.nodes_of(group, first)) for group in range(self.n_group) for first in self._first_ranks())

    def nodes_of_a_token(self) -> int:
        """The most nodes to which the rows of a token go."""
        all_nodes = max(
            len({rank // self.ranks_per_node for rank in range(first, first + self._size())})
            for first in self._first_ranks()
        )
        return min(self.topk_group * self.nodes_of_a_group(), all_nodes)

    def _size(self) -> int:
        """Of a group of ranks that has all experts."""
        return self.expert_parallel * self.expert_tensor_parallel

    def _first_ranks(self) -> range:
        """Groups of ranks begin at multiples of their size, nodes at multiples of theirs: so many beginnings differ."""
        return range(0, self._size() * self.ranks_per_node, self._size())

    def usable_degrees(self, ranks: int) -> list[int]:
        """Degrees of expert_parallel of a run whose `ranks` shard data and tensors, with each group on one node."""
        degrees = [
            one
            for one in range(2, self.n_routed_experts + 1)
            if not (self.n_routed_experts % one or ranks % (one * self.expert_tensor_parallel))
        ]
        return [one for one in degrees if self._with(one).nodes_of_a_group() == 1]

    def describe(self, ranks: int) -> str:
        """For the table of axes; what would do where a group is divided."""
        nodes = self.nodes_of_a_group()
        reached = f"a token's rows go to at most {self.nodes_of_a_token()}"
        line = f"  groups of experts       {self.n_group:>6}   each on {nodes} node(s); {reached}"
        if nodes == 1:
            return line
        return (
            f"{line}\n  parallelism.expert_parallel = {self.expert_parallel} divides groups of "
            f"{self.n_routed_experts // self.n_group} experts (router.n_group = {self.n_group}) between nodes of "
            f"{self.ranks_per_node} ranks; {_shown(self.usable_degrees(ranks))} would keep each on one"
        )

    def _with(self, expert_parallel: int) -> "ExpertGroups":
        return ExpertGroups(
            n_routed_experts=self.n_routed_experts,
            n_group=self.n_group,
            topk_group=self.topk_group,
            expert_parallel=expert_parallel,
            expert_tensor_parallel=self.expert_tensor_parallel,
            ranks_per_node=self.ranks_per_node,
        )


def _shown(degrees: Sequence[int]) -> str:
    return ", ".join(map(str, degrees)) if degrees else "no degree"
