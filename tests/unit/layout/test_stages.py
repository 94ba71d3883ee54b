"""Layers to stages and stages to ranks."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.config.pipeline import PipelineConfig
from firstlight.layout.counts import flops_by_part, flops_per_token
from firstlight.layout.stages import balanced, layers_of_stages, stages_of, stages_on
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, of_family

SCHEDULES = (
    ("gpipe", None),
    ("1f1b", None),
    ("interleaved_1f1b", 3),
    ("looped_bfs", None),
    ("interleaved_zero_bubble", None),
    ("zbv_zero_bubble", None),
    ("dualpipe_v", None),
)


def pipeline(**section: Any) -> PipelineConfig:
    return PipelineConfig.model_validate(section)


@pytest.mark.parametrize(("schedule", "per_rank"), SCHEDULES)
@pytest.mark.parametrize("degree", [2, 4])
def test_every_stage_is_on_one_rank(schedule: str, per_rank: int | None, degree: int) -> None:
    section = pipeline(schedule=schedule, stages_per_rank=per_rank)
    stages = [index for rank in range(degree) for index in stages_on(rank, degree, section)]
    assert sorted(stages) == list(range(degree * section.num_stages_per_rank))


@pytest.mark.parametrize("schedule", ["zbv_zero_bubble", "dualpipe_v"])
def test_a_v_has_embedding_and_head_on_the_first_rank(schedule: str) -> None:
    assert [stages_on(rank, 4, pipeline(schedule=schedule)) for rank in range(4)] == [[0, 7], [1, 6], [2, 5], [3, 4]]


def test_stages_have_all_layers_in_order() -> None:
    stages = stages_of(deepseek(num_hidden_layers=7), pipeline(schedule="looped_bfs"), 2, 16)
    assert [layer for stage in stages for layer in stage.layers] == list(range(7))
    assert [(stage.is_first, stage.is_last) for stage in stages] == [
        (True, False),
        *[(False, False)] * 2,
        (False, True),
    ]


def test_one_rank_has_the_whole_model() -> None:
    (stage,) = stages_of(llama(), pipeline(schedule="dualpipe_v"), 1, 16)
    assert (stage.is_first, stage.is_last, stage.layers) == (True, True, range(2))
    assert stages_on(0, 1, pipeline(schedule="dualpipe_v")) == [0]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ({"kind": "layers", "layers": [4, 3]}, [4, 3]),
        ({"kind": "offsets", "offsets": [1, 0]}, [4, 3]),
        ({"kind": "offsets", "offsets": [-1, 2]}, [2, 5]),
    ],
)
def test_a_given_split_is_taken(split: dict[str, Any], expected: list[int]) -> None:
    assert layers_of_stages(llama(num_hidden_layers=7), pipeline(split=split), 2, 16) == expected


def test_a_heavy_head_leaves_its_stage_fewer_layers() -> None:
    light = layers_of_stages(llama(num_hidden_layers=8, vocab_size=96), pipeline(), 4, 16)
    heavy = layers_of_stages(llama(num_hidden_layers=8, vocab_size=960), pipeline(), 4, 16)
    assert light == [2, 2, 2, 2]
    assert heavy == [3, 3, 2, 0]


@given(costs=st.lists(st.integers(1, 9), min_size=1, max_size=8), count=st.integers(1, 4), after=st.integers(0, 12))
def test_no_split_is_better(costs: list[int], count: int, after: int) -> None:
    if len(costs) < count:
        return

    def dearest(sizes: list[int]) -> int:
        ends = [sum(sizes[: index + 1]) for index in range(count)]
        runs = [sum(costs[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
        return max([*runs[:-1], runs[-1] + after])

    found = balanced(costs, count, after=after)
    assert sum(found) == len(costs)
    assert min(found[:-1], default=1) >= 1
    assert dearest(found) == min(dearest(sizes) for sizes in _splits(len(costs), count))


def _splits(size: int, count: int) -> list[list[int]]:
    """Every way to cut `size` into `count` runs of one or more, the last one perhaps empty."""
    if count == 1:
        return [[size]]
    return [[first, *rest] for first in range(1, size + 1) for rest in _splits(size - first, count - 1)]


@pytest.mark.parametrize(
    "config", [deepseek(multi_token_prediction={"num_layers": 2}), *map(of_family, OTHER_FAMILIES)]
)
def test_the_parts_cost_what_the_model_costs(config: Any) -> None:
    parts = flops_by_part(config, 48)
    assert sum(parts.layers) + parts.head == pytest.approx(flops_per_token(config, 48), rel=1e-12)
