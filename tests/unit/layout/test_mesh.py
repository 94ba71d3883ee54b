"""Ranks to coordinates, on all meshes."""

from collections import defaultdict

import pytest

from firstlight.config.training import ParallelismConfig
from firstlight.layout.mesh import EXPERT_AXES, PARAMETER_AXES, RANK_AXES, Layout

LARGE = Layout(dp_replicate=2, dp_shard=4, tp=4, ep=8)
WHOLE = Layout(pp=2, dp_replicate=2, dp_shard=2, cp=2, tp=2, ep=4)
SLICED = Layout(dp_replicate=2, dp_shard=4, tp=4, ep=4, etp=2)
AXES = (RANK_AXES, PARAMETER_AXES, EXPERT_AXES)


def test_tensor_and_expert_groups_are_neighbours() -> None:
    assert list(LARGE.group("tp", 0)) == [0, 1, 2, 3]
    assert list(LARGE.group("ep", 0)) == list(range(8))
    assert list(LARGE.group("edp", 0)) == [0, 8]
    assert list(LARGE.group("dp_shard", 0)) == [0, 4, 8, 12]
    assert list(LARGE.group("dp_replicate", 0)) == [0, 16]


@pytest.mark.parametrize("layout", [LARGE, WHOLE, SLICED])
@pytest.mark.parametrize("axes", AXES)
def test_every_rank_has_a_place_of_its_own(layout: Layout, axes: tuple[str, ...]) -> None:
    places = {tuple(layout.coordinates(rank)[axis] for axis in axes) for rank in range(layout.world_size)}
    assert len(places) == layout.world_size == 32


@pytest.mark.parametrize("layout", [LARGE, WHOLE, SLICED])
@pytest.mark.parametrize("axes", AXES)
def test_groups_are_the_ranks_that_differ_on_one_axis(layout: Layout, axes: tuple[str, ...]) -> None:
    for axis in axes:
        same = defaultdict(list)
        for rank in range(layout.world_size):
            place = layout.coordinates(rank)
            same[tuple(place[other] for other in axes if other != axis)].append(rank)
        assert list(layout.group(axis, 0)) in same.values()


def test_ranks_that_share_experts_are_the_closest_neighbours() -> None:
    groups = {axis: list(SLICED.group(axis, 0)) for axis in ("etp", "ep", "edp")}
    assert groups == {"etp": [0, 1], "ep": [0, 2, 4, 6], "edp": [0, 8]}
    assert "  expert_tensor_parallel       2   ranks 0, 1" in SLICED.describe().splitlines()


def test_experts_stay_within_a_replica() -> None:
    replicas = {rank: LARGE.coordinates(rank)["dp_replicate"] for rank in range(LARGE.world_size)}
    assert {replicas[rank] for rank in LARGE.group("ep", 0)} == {0}
    assert {replicas[rank] for rank in LARGE.group("edp", 0)} == {0}


def test_ranks_of_a_tensor_group_read_the_same_samples() -> None:
    assert LARGE.data_size == 8
    assert [LARGE.data_rank(rank) for rank in range(9)] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert {LARGE.data_rank(rank) for rank in range(32)} == set(range(8))


def test_stages_and_parts_of_a_sequence_read_the_same_samples() -> None:
    assert [WHOLE.data_rank(rank) for rank in range(32)] == 2 * ([0] * 4 + [1] * 4 + [2] * 4 + [3] * 4)
    assert (WHOLE.data_size, WHOLE.readers, WHOLE.stage_size) == (4, 8, 16)
    assert [WHOLE.coordinates(rank)["cp"] for rank in range(4)] == [0, 0, 1, 1]
    assert list(WHOLE.group("pp", 0)) == [0, 16]


@pytest.mark.parametrize(
    ("section", "world_size", "expected"),
    [
        ({}, 1, Layout()),
        ({}, 6, Layout(dp_shard=6)),
        ({"tensor_parallel": 2}, 8, Layout(dp_shard=4, tp=2)),
        (
            {"tensor_parallel": 2, "data_parallel_replicate": 2, "expert_parallel": 4},
            8,
            Layout(dp_replicate=2, dp_shard=2, tp=2, ep=4),
        ),
        ({"data_parallel_shard": 2, "tensor_parallel": 2}, 4, Layout(dp_shard=2, tp=2)),
        ({"expert_parallel": 2, "expert_tensor_parallel": 2}, 8, Layout(dp_shard=8, ep=2, etp=2)),
        ({"pipeline_parallel": 2, "context_parallel": 2}, 16, Layout(dp_shard=4, pp=2, cp=2)),
    ],
)
def test_minus_one_takes_what_is_left(section: dict[str, int], world_size: int, expected: Layout) -> None:
    assert Layout.of(ParallelismConfig.model_validate(section), world_size) == expected


def test_table_names_degrees_and_neighbours() -> None:
    assert Layout().describe() == "1 rank(s)"
    assert LARGE.describe().splitlines() == [
        "32 rank(s), by axis:",
        "  data_parallel_replicate      2   ranks 0, 16",
        "  data_parallel_shard          4   ranks 0, 4, 8, 12",
        "  tensor_parallel              4   ranks 0, 1, 2, 3",
        "  shards of an expert          2   ranks 0, 8",
        "  expert_parallel              8   ranks 0, 1, 2 ... 7",
    ]
