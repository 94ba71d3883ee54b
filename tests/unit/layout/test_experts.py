"""Groups of experts on nodes by arithmetic, and the nodes to which a real router's choices go."""

import pytest
import torch

from firstlight.config.model import MoeFeedForward
from firstlight.layout.experts import ExpertGroups
from firstlight.layout.mesh import Layout
from firstlight.models.router import TopKRouter
from tests.unit.models.tiny_model import deepseek, llama


def groups(
    *, ep: int, ranks_per_node: int, etp: int = 1, experts: int = 256, n_group: int = 8, topk_group: int = 4
) -> ExpertGroups:
    return ExpertGroups(
        n_routed_experts=experts,
        n_group=n_group,
        topk_group=topk_group,
        expert_parallel=ep,
        expert_tensor_parallel=etp,
        ranks_per_node=ranks_per_node,
    )


def test_deepseek_v3_as_released_has_a_group_on_each_node() -> None:
    """64 ranks on 8 nodes: 4 experts a rank, 32 a node; a token goes to at most 4 nodes (section 2.1.2)."""
    found = groups(ep=64, ranks_per_node=8)
    assert [found.nodes_of(group) for group in range(8)] == [{node} for node in range(8)]
    assert [found.nodes_of(group, first_rank=64) for group in range(8)] == [{node} for node in range(8, 16)]
    assert (found.nodes_of_a_group(), found.nodes_of_a_token()) == (1, 4)


@pytest.mark.parametrize(
    ("ep", "ranks_per_node", "expected"),
    [(8, 8, (1, 1)), (16, 8, (1, 2)), (128, 8, (2, 8)), (256, 8, (4, 16)), (32, 6, (2, 6)), (4, 6, (1, 2))],
)
def test_nodes_of_groups_and_tokens(ep: int, ranks_per_node: int, expected: tuple[int, int]) -> None:
    found = groups(ep=ep, ranks_per_node=ranks_per_node)
    assert (found.nodes_of_a_group(), found.nodes_of_a_token()) == expected


@pytest.mark.parametrize(
    ("ep", "etp", "ranks_per_node", "expected"),
    [(8, 1, 8, (1, 1)), (8, 8, 8, (1, 4)), (32, 2, 8, (1, 4)), (32, 4, 8, (2, 8)), (8, 4, 3, (2, 8))],
)
def test_experts_that_are_cut_lie_on_more_ranks(
    ep: int, etp: int, ranks_per_node: int, expected: tuple[int, int]
) -> None:
    found = groups(ep=ep, etp=etp, ranks_per_node=ranks_per_node)
    assert (found.nodes_of_a_group(), found.nodes_of_a_token()) == expected


def test_a_divided_group_is_said_with_what_would_do() -> None:
    assert groups(ep=64, ranks_per_node=8).describe(1024).endswith("each on 1 node(s); a token's rows go to at most 4")
    line, advice = groups(ep=128, ranks_per_node=8).describe(1024).splitlines()
    assert line.endswith("each on 2 node(s); a token's rows go to at most 8")
    assert advice == (
        "  parallelism.expert_parallel = 128 divides groups of 32 experts (router.n_group = 8) between nodes of "
        "8 ranks; 2, 4, 8, 16, 32, 64 would keep each on one"
    )


def test_no_groups_without_limits() -> None:
    assert ExpertGroups.of(llama(), Layout(dp_shard=8), 2) is None
    assert ExpertGroups.of(deepseek(), Layout(dp_shard=8), 2) is None
    free = deepseek(router={"n_group": 1, "topk_group": 1})
    assert ExpertGroups.of(free, Layout(dp_shard=8, ep=8), 2) is None
    assert ExpertGroups.of(deepseek(), Layout(dp_shard=8, ep=8), 2) == groups(
        ep=8, ranks_per_node=2, experts=8, n_group=4, topk_group=2
    )


@pytest.mark.parametrize("ranks_per_node", [1, 2])
def test_a_token_goes_to_no_more_nodes_than_said(ranks_per_node: int) -> None:
    """Of 8 experts in 4 groups, on 8 ranks: two ranks a node keep a group together, one does not."""
    config = deepseek(router={"num_experts_per_tok": 4}).feed_forward
    assert isinstance(config, MoeFeedForward)
    torch.manual_seed(0)
    router = TopKRouter(32, 8, config.router)
    torch.nn.init.normal_(router.weight)
    chosen = router(torch.randn(4, 64, 32)).experts_tk
    found = groups(ep=8, ranks_per_node=ranks_per_node, experts=8, n_group=4, topk_group=2)
    reached = [len(set().union(*(found.nodes_of_expert(expert) for expert in token))) for token in chosen.tolist()]
    assert max(reached) == found.nodes_of_a_token() == {1: 4, 2: 2}[ranks_per_node]
