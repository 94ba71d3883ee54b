"""Reduced precision in several layouts, against one rank: with master weights and in 8 bits."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.equivalence.precision_rank import CASES
from tests.equivalence.test_layouts import run_ranks

pytestmark = pytest.mark.slow

MODULE = "tests.equivalence.precision_rank"
EXACT = ("master_dp2", "fp8_dp2", "fp8_recomputed", "fp8_selective")
MORE_EXACT = ("master_replicated2", "master_zero1", "master_pp2")
"""Each rank takes whole micro-batches, as one rank would."""

NEAR = ("wide_tp2", "fp8_ep2", "master_ep2", "fp8_pp2_zbv")
ALONE = ("master_alone", "fp8_alone", "wide_alone")


@dataclass(frozen=True, kw_only=True)
class Result:
    """The whole tensors of a case, and its losses."""

    tensors: dict[str, Tensor]
    losses: list[float]


def read(folder: Path, name: str) -> Result:
    """What all ranks have saved, put together; each element must be there."""
    wholes: dict[str, Tensor] = {}
    losses: list[float] = []
    size = CASES[name].layout.world_size
    files = [(load_file(folder / f"{name}-{r}.safetensors"), folder / f"{name}-{r}.json") for r in range(size)]
    notes = [json.loads(file.read_text()) for _, file in files]
    for key in {key for blocks, _ in files for key in blocks}:
        parts = [
            (blocks[key], note["offsets"][key])
            for (blocks, _), note in zip(files, notes, strict=True)
            if blocks.get(key) is not None and blocks[key].numel()
        ]
        shape = [max(o[dim] + b.shape[dim] for b, o in parts) for dim in range(parts[0][0].ndim)]
        wholes[key] = torch.full(shape, float("nan"))
        for block, offset in parts:
            wholes[key][tuple(slice(o, o + n) for o, n in zip(offset, block.shape, strict=True))] = block
        assert wholes[key].isfinite().all(), key
    losses = notes[0]["losses"]
    return Result(tensors=wholes, losses=losses)


def ran(folder: Path, *names: str) -> dict[str, Result]:
    for size in (1, 2):
        mine = [name for name in names if CASES[name].layout.world_size == size]
        if mine:
            run_ranks(folder / str(size), size, mine, module=MODULE)
    return {name: read(folder / str(CASES[name].layout.world_size), name) for name in names}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    return ran(tmp_path_factory.mktemp("alone"), *ALONE)


def compare_exactly(name: str, found: Result, alone: dict[str, Result]) -> None:
    expected = alone[name.partition("_")[0] + "_alone"]
    assert found.tensors.keys() == expected.tensors.keys()
    different = [key for key, tensor in expected.tensors.items() if not torch.equal(found.tensors[key], tensor)]
    assert different == [], name
    assert found.losses == pytest.approx(expected.losses, rel=1e-6)


def test_layouts_of_whole_micro_batches_are_equal_to_the_bit(alone: dict[str, Result], tmp_path: Path):
    for name, found in ran(tmp_path, *EXACT).items():
        compare_exactly(name, found, alone)


@pytest.mark.slow
def test_more_layouts_of_whole_micro_batches_are_equal_to_the_bit(alone: dict[str, Result], tmp_path: Path):
    for name, found in ran(tmp_path, *MORE_EXACT).items():
        compare_exactly(name, found, alone)


def test_layouts_that_cut_or_join_products_are_near(alone: dict[str, Result], tmp_path: Path):
    # Sums over a tensor group come in another order, and what they move may be rounded to the next 8-bit number.
    # Experts on another rank see the rows of several micro-batches at once, in other tiles.
    for name, found in ran(tmp_path, *NEAR).items():
        expected = alone[name.partition("_")[0] + "_alone"]
        # AdamW turns what is moved into whole steps: later losses tell nothing.
        assert found.losses[0] == pytest.approx(expected.losses[0], rel=1e-5), name
        for key, tensor in expected.tensors.items():
            if key.startswith("gradient/0/"):
                error = float((found.tensors[key] - tensor).norm() / tensor.norm())
                assert error < (0.1 if ".experts." in key else 0.02), (name, key, error)
