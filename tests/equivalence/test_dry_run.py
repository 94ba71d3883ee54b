"""A dry run is the run: its files, shapes and calls are those of real processes, its memory within 5 %."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from firstlight.layout.memory import Kept, state_of_rank
from firstlight.layout.mesh import Layout
from firstlight.train.dry_run import dry_rank
from firstlight.train.dry_step import dry_step
from tests.equivalence.dry_runs import CASES, QUICK, SLOW
from tests.equivalence.test_layouts import run_ranks

pytestmark = pytest.mark.slow

MEMORY_TOLERANCE = 0.05


def compare(folder: Path, ranks: int, names: Sequence[str]) -> None:
    run_ranks(folder, ranks, list(names), "tests.equivalence.dry_rank")
    for name in names:
        config = CASES[name].config
        for rank in range(ranks):
            real = json.loads((folder / f"{name}-{rank}.json").read_text())
            dry = dry_rank(config, ranks, rank)
            assert {one.name: one.num_bytes for one in dry.files} == real["files"], (name, rank)
            held = {tensor: one for file in dry.files for tensor, one in file.tensors.items()}
            shapes = {tensor: [list(one.shape), list(one.offset)] for tensor, one in held.items()}
            assert shapes == real["shapes"], (name, rank)
            _compare_steps(asdict(dry_step(config, ranks, rank)), real["step"], f"{name} rank {rank}")


def _compare_steps(dry: dict[str, Any], real: dict[str, Any], where: str) -> None:
    assert dry["calls"] == real["calls"], where
    for key in ("before_bytes", "left_bytes"):
        assert dry[key] == real[key], (where, key)
    for key in ("most_bytes", "most_in_update_bytes"):
        assert dry[key] == pytest.approx(real[key], rel=MEMORY_TOLERANCE), (where, key)


def test_four_processes_are_as_their_dry_runs(tmp_path: Path) -> None:
    compare(tmp_path / "ranks", 4, list(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", sorted({case.ranks for case in SLOW.values()}))
def test_processes_are_as_their_dry_runs(tmp_path: Path, ranks: int) -> None:
    compare(tmp_path / "ranks", ranks, [name for name, case in SLOW.items() if case.ranks == ranks])


@pytest.mark.parametrize("name", CASES)
def test_shards_have_the_bytes_of_the_arithmetic(name: str) -> None:
    case, config = CASES[name], CASES[name].config
    layout, kept = Layout.of(config.parallelism, case.ranks), Kept(optimizer=config.optimizer, averages=config.averages)
    for rank in range(case.ranks):
        dry = dry_rank(config, case.ranks, rank)
        assert dry.state == state_of_rank(config.model, layout, rank, dry.stages, kept=kept), rank
