"""Every rank holds less as the axis that shards it grows: bytes counted in the ranks themselves."""

from collections.abc import Callable
from functools import cache

import pytest

from benchmarks.bench_memory import ROWS, Most, run, size_of
from benchmarks.memory_rank import Row

SIZES: dict[str, int] = {"hidden_size": 64, "sequence_length": 64, "micro_batch_size": 2}
SLACK = 1.1
"""Norms and routers of a few elements do not come out even."""

pytestmark = pytest.mark.slow


@cache
def measured() -> dict[str, Most]:
    """All rows on up to four processes."""
    rows = {name: Row(parallelism=dict(section), **SIZES) for name, section in ROWS.items()}
    return run({name: row for name, row in rows.items() if size_of(row) <= 4})


def held(name: str) -> Most:
    """The figures of the rank that holds the most."""
    return measured()[name]


def series(name: Callable[[int], str], degrees: tuple[int, ...], key: str) -> list[int]:
    return [held(name(degree) if degree > 1 else "one process")[key] for degree in degrees]


@pytest.mark.parametrize("stage", ["optimizer", "optimizer+gradients", "all"])
def test_shards_are_the_whole_divided_by_their_number(stage: str) -> None:
    for key in ("parameters", "optimizer_state", "gradients"):
        whole, half, quarter = series(lambda n: f"data_parallel_shard {n}, sharded {stage}", (1, 2, 4), key)
        assert whole / 2 <= half < SLACK * whole / 2, key
        assert whole / 4 <= quarter < SLACK * whole / 4, key


def test_each_stage_holds_less_than_the_one_before() -> None:
    stages = [held(f"data_parallel_shard 4, sharded {stage}") for stage in ("all", "optimizer+gradients", "optimizer")]
    for key in ("between", "peak"):
        assert stages[0][key] < stages[1][key] < stages[2][key], key
    whole = held("one process")["parameters"]
    # Sums of gradients in fp64, and gathered parameters: sharded or whole.
    sums = 2 * whole
    assert stages[0]["between"] < SLACK * sums / 4
    assert sums / 4 + whole <= stages[1]["between"] < SLACK * (sums / 4 + whole)
    assert sums + whole <= stages[2]["between"] < SLACK * (sums + whole)


def test_what_is_held_between_micro_batches_falls_with_the_shards() -> None:
    half, quarter = series(lambda n: f"data_parallel_shard {n}, sharded all", (2, 4), "between")
    assert half / 2 <= quarter < SLACK * half / 2


def test_tensor_parallelism_cuts_activations_and_the_peak() -> None:
    for key in ("saved", "peak", "parameters"):
        whole, half, quarter = series("tensor_parallel {}".format, (1, 2, 4), key)
        assert whole > 1.3 * half, key
        assert half > 1.2 * quarter, key


def test_expert_parallelism_gathers_fewer_experts() -> None:
    peaks = [held(f"data_parallel_shard 4, expert_parallel {degree}")["peak"] for degree in (1, 2, 4)]
    assert peaks[0] > max(peaks[1:])


@pytest.mark.parametrize("kind", ["ring", "all_to_all"])
def test_context_parallelism_cuts_activations_the_peak_and_parameters(kind: str) -> None:
    for key in ("saved", "peak", "parameters", "optimizer_state"):
        whole, half, quarter = series(lambda n: f"context_parallel {n}, {kind}", (1, 2, 4), key)
        assert whole > 1.3 * half, key
        assert half > 1.2 * quarter, key


def test_pipelines_cut_what_a_rank_keeps_of_the_model_and_of_a_micro_batch() -> None:
    for key in ("parameters", "optimizer_state", "gradients", "saved"):
        whole, half, quarter = series("pipeline_parallel {}, 1f1b".format, (1, 2, 4), key)
        assert whole > half > quarter, key
