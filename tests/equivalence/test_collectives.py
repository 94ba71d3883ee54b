"""The arithmetic of a step's communication and of a rank's memory is what real processes do and hold, to the byte."""

import json
from pathlib import Path

import pytest

from tests.equivalence.counted import CASES
from tests.equivalence.test_layouts import run_ranks


@pytest.mark.parametrize("size", [2, *(pytest.param(size, marks=pytest.mark.slow) for size in (3, 4))])
def test_calls_and_memory_are_those_of_the_arithmetic(size: int, tmp_path: Path) -> None:
    compare(
        size, [name for name, case in CASES.items() if case.layout.world_size == size and not case.is_slow], tmp_path
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_calls_and_memory_are_those_of_the_arithmetic_where_axes_meet(size: int, tmp_path: Path) -> None:
    compare(size, [name for name, case in CASES.items() if case.layout.world_size == size and case.is_slow], tmp_path)


def compare(size: int, names: list[str], folder: Path) -> None:
    """Memory of each rank; calls of the first rank of each stage, of whose shards the arithmetic knows."""
    run_ranks(folder / "ranks", size, names, module="tests.equivalence.counted")
    for name in names:
        for rank in range(size):
            facts = json.loads((folder / "ranks" / f"{name}-{rank}.json").read_text())
            assert facts["held"] == facts["state"], f"{name}, rank {rank}"
            if CASES[name].layout.is_first_of_stage(rank):
                assert facts["found"] == facts["expected"], f"{name}, rank {rank}"
