"""What a rank keeps for its backward pass falls as context parallelism grows: attention has no matrix of scores."""

import json
from pathlib import Path

import pytest

from tests.equivalence.test_layouts import run_ranks

SLACK = 1.1


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_kept_activations_fall_with_the_positions_of_a_rank(size: int, tmp_path: Path) -> None:
    # As many rows on a rank in each: only the positions of a sequence are cut.
    whole = {"dp_shard": size}
    cut = [{"cp": size}, {"cp": size, "cp_heads": 2}]
    arguments = [json.dumps(layout) for layout in (whole, *cut)]
    run_ranks(tmp_path / "ranks", size, arguments, module="tests.equivalence.saved_rank")
    for rank in range(size):
        alone, *parts = json.loads((tmp_path / "ranks" / f"{rank}.json").read_text())
        for layout, kept in zip(cut, parts, strict=True):
            assert kept <= SLACK * alone / size, f"{layout}: {kept} bytes on rank {rank}, {alone} without"
