"""The layout of a run on fewer ranks: data parallelism shrinks alone."""

import contextlib

import pytest

from firstlight.config.fewer_ranks import on_fewer_ranks
from firstlight.config.load import load
from firstlight.layout.mesh import Layout
from tests.runs import TinyRun, make_tiny_run
from tests.unit.train.tiny import config_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return make_tiny_run(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(
    ("degrees", "whole", "left", "expected"),
    [
        ({}, 4, 3, (1, 3, 1)),
        ({"data_parallel_shard": 4}, 4, 2, (1, 2, 1)),
        ({"data_parallel_replicate": 4}, 8, 6, (3, 2, 1)),
        ({"data_parallel_replicate": 2, "data_parallel_shard": 4}, 8, 6, (2, 3, 1)),
        ({"data_parallel_replicate": 2, "data_parallel_shard": 4}, 8, 5, (1, 5, 1)),
        ({"data_parallel_shard": 2, "tensor_parallel": 2}, 4, 2, (1, 1, 2)),
    ],
)
def test_data_parallelism_shrinks_alone(
    run: TinyRun, degrees: dict[str, int], whole: int, left: int, expected: tuple[int, int, int]
) -> None:
    config = config_of(run, *(f"parallelism.{name}={degree}" for name, degree in degrees.items()))
    layout = Layout.of(on_fewer_ranks(config, left, whole=whole).parallelism, left)
    assert (layout.dp_replicate, layout.dp_shard, layout.tp) == expected
    assert layout.world_size == left
    assert on_fewer_ranks(config, whole, whole=whole) == config


def test_what_makes_no_layout_is_said(run: TinyRun) -> None:
    with contextlib.chdir(run.folder):
        loaded = load(run.folder / "run.yaml", ["training.micro_batch_size=1"])
    assert loaded.refusal(2, whole=4) is None
    refusal = loaded.refusal(3, whole=4)
    assert refusal is not None
    assert "training.global_batch_size = 4 is not a multiple of micro_batch_size = 1 x 3 data-parallel ranks" in refusal
