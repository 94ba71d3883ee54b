"""The arithmetic of a step's communication and of a rank's memory is what real processes do and hold, to the byte."""

import json
from pathlib import Path

import pytest

from tests.equivalence.counted import CASES
from tests.equivalence.test_layouts import run_ranks


@pytest.mark.parametrize("size", [2, 3, 4])
def test_collectives_and_memory_are_those_of_the_arithmetic(size: int, tmp_path: Path) -> None:
    names = [name for name, case in CASES.items() if case.layout.world_size == size]
    run_ranks(tmp_path / "ranks", size, names, module="tests.equivalence.counted")
    for name in names:
        for rank in range(size):
            facts = json.loads((tmp_path / "ranks" / f"{name}-{rank}.json").read_text())
            assert facts["held"] == facts["state"], f"{name}, rank {rank}"
            if rank == 0:
                assert facts["found"] == facts["expected"], name
