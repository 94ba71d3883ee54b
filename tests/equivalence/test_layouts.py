"""Tensor and expert parallelism compute what one rank computes: in fp64, every gradient within 1e-9."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.equivalence.layouts import CASES, Case
from tests.equivalence.rank import MICRO_BATCH, STEPS
from tests.runs import environment

TOLERANCE = 1e-9
TIMEOUT_SECONDS = 240
COMPARED = [name for name, case in CASES.items() if case.layout.world_size > 1]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What one rank saved."""

    blocks: dict[str, Tensor]
    offsets: dict[str, list[int]]
    figures: list[dict[str, float]]


def run_ranks(folder: Path, size: int, names: list[str]) -> None:
    """Run the cases on `size` processes; all are gone when this returns."""
    folder.mkdir()
    variables = environment() | {"TORCH_DISTRIBUTED_DEBUG": "DETAIL", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "tests.equivalence.rank", str(folder)]
    root = Path(__file__).parents[2]
    variables["PYTHONPATH"] = os.pathsep.join((variables["PYTHONPATH"], str(root)))
    logs = [folder / f"{rank}.log" for rank in range(size)]
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank, log in enumerate(logs):
            with log.open("wb") as file:
                arguments = [*command, str(rank), str(size), *names]
                ranks.append(subprocess.Popen(arguments, env=variables, cwd=root, stdout=file, stderr=file))
        codes = [process.wait(TIMEOUT_SECONDS) for process in ranks]
        assert codes == [0] * size, "\n".join(log.read_text()[-3000:] for log in logs)
    finally:
        for process in ranks:
            process.kill()
            process.wait()


class Runs:
    """Results by case; the cases of one number of processes are run together when the first of them is asked for."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._folder = folder
        self._names = names

    def saved(self, name: str) -> list[Saved]:
        size = CASES[name].layout.world_size
        folder = self._folder / str(size)
        if not folder.exists():
            run_ranks(folder, size, [other for other in self._names if CASES[other].layout.world_size == size])
        return [_read(folder, name, rank) for rank in range(size)]


def _read(folder: Path, name: str, rank: int) -> Saved:
    facts: dict[str, Any] = json.loads((folder / f"{name}-{rank}.json").read_text())
    return Saved(blocks=load_file(folder / f"{name}-{rank}.safetensors"), **facts)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    chosen = {item.callspec.params["name"] for item in request.session.items if _is_here(item)}
    alone = [f"{model}_alone" for model in {CASES[name].model for name in chosen}]
    return Runs(tmp_path_factory.mktemp("layouts"), [*alone, *(name for name in COMPARED if name in chosen)])


def _is_here(item: pytest.Item) -> bool:
    return item.path == Path(__file__) and hasattr(item, "callspec") and "name" in item.callspec.params


def assert_near(here: Tensor, there: Tensor, what: str) -> None:
    error = float((here - there).abs().max()) if here.numel() else 0.0
    assert error <= TOLERANCE * max(1.0, float(there.abs().max())), f"{what} differs by {error:.1e}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if CASES[name].is_slow else ()) for name in COMPARED]
)
def test_layout_computes_what_one_rank_computes(runs: Runs, name: str) -> None:
    case = CASES[name]
    (alone,) = runs.saved(f"{case.model}_alone")
    ranks = runs.saved(name)
    for rank, saved in enumerate(ranks):
        for here, there in zip(saved.figures, alone.figures, strict=True):
            assert here == pytest.approx(there, rel=TOLERANCE), f"rank {rank}"
        for key, block in saved.blocks.items():
            if key.startswith(("gradient", "parameter")):
                where = tuple(slice(o, o + n) for o, n in zip(saved.offsets[key], block.shape, strict=True))
                assert_near(block, alone.blocks[key][where], f"{key} on rank {rank}")
            elif key.startswith("bias"):
                assert torch.equal(block, alone.blocks[key]), key
    for key, whole in alone.blocks.items():
        if key.startswith("gradient"):
            assert _covered(ranks, key) == whole.numel(), key
    for step in range(STEPS):
        assert torch.equal(_choices(ranks, case, step), _choices([alone], CASES[f"{case.model}_alone"], step))


def _covered(ranks: list[Saved], key: str) -> int:
    """Elements of a tensor that the ranks hold, each block counted once."""
    blocks = {(tuple(saved.offsets[key]), tuple(saved.blocks[key].shape)) for saved in ranks}
    return sum(torch.Size(shape).numel() for _, shape in blocks)


def _choices(ranks: list[Saved], case: Case, step: int) -> Tensor:
    """The experts of each token of the global batch in each mixture layer, sorted: [layers, rows, positions, k]."""
    layers = sum(key.startswith("bias") for key in ranks[0].blocks)
    if not layers:
        return torch.zeros(0)
    by_data_rank = []
    for first in range(0, len(ranks), case.layout.tp):
        group = ranks[first : first + case.layout.tp]
        parts = [_by_layer(saved, step, layers) for saved in group]
        by_data_rank.append(torch.cat(parts, dim=2))
    return torch.cat(by_data_rank, dim=1).sort(-1).values


def _by_layer(saved: Saved, step: int, layers: int) -> Tensor:
    count = sum(key.startswith(f"choice/{step}/") for key in saved.blocks)
    chosen = [saved.blocks[f"choice/{step}/{index}"].unflatten(0, (MICRO_BATCH, -1)) for index in range(count)]
    return torch.stack([torch.cat(chosen[layer::layers]) for layer in range(layers)])
