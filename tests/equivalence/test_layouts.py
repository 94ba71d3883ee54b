"""Every layout computes what one rank computes: every gradient within 1e-9 in fp64, within 1e-5 of its norm in fp32."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from firstlight.layout.context import positions_of
from tests.equivalence.layouts import CASES, QUICK, Case
from tests.equivalence.rank import LENGTH, MICRO_BATCH
from tests.runs import environment, wait_until

TOLERANCE = 1e-9
SINGLE_TOLERANCE = 1e-5
TIMEOUT_SECONDS = 240
TIMEOUT_SECONDS_PER_CASE = 40


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What one rank saved."""

    blocks: dict[str, Tensor]
    offsets: dict[str, list[int]]
    figures: list[dict[str, float]]


def run_ranks(
    folder: Path,
    size: int,
    names: list[str],
    module: str = "tests.equivalence.rank",
    *,
    working_folder: Path | None = None,
    num_cases: int | None = None,
) -> None:
    """Run the cases of `module` on `size` processes, in `working_folder` if given; all are gone when this returns.

    `num_cases`: how many `names` stand for, if not one each.
    """
    folder.mkdir()
    variables = environment() | {"TORCH_DISTRIBUTED_DEBUG": "DETAIL", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", module, str(folder)]
    root = Path(__file__).parents[2]
    variables["PYTHONPATH"] = os.pathsep.join((variables["PYTHONPATH"], str(root)))
    logs = [folder / f"{rank}.log" for rank in range(size)]
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank, log in enumerate(logs):
            with log.open("wb") as file:
                arguments = [*command, str(rank), str(size), *names]
                ranks.append(
                    subprocess.Popen(arguments, env=variables, cwd=working_folder or root, stdout=file, stderr=file)
                )
        limit = TIMEOUT_SECONDS + TIMEOUT_SECONDS_PER_CASE * (num_cases or len(names))
        # Where one has failed, the others wait in vain.
        wait_until(lambda: any(_codes(ranks)) or None not in _codes(ranks), timeout=limit)
        assert _codes(ranks) == [0] * size, "\n".join(log.read_text()[-9000:] for log in logs)
    finally:
        for process in ranks:
            process.kill()
            process.wait()


def _codes(ranks: list[subprocess.Popen[bytes]]) -> list[int | None]:
    return [process.poll() for process in ranks]


def read(folder: Path, name: str) -> list[Saved]:
    """What the ranks of a case saved."""
    out = []
    for rank in range(CASES[name].layout.world_size):
        facts: dict[str, Any] = json.loads((folder / f"{name}-{rank}.json").read_text())
        out.append(Saved(blocks=load_file(folder / f"{name}-{rank}.safetensors"), **facts))
    return out


def assert_near(block: Tensor, whole: Tensor, where: tuple[slice, ...], what: str) -> None:
    """The block is that of `whole`: in fp64 each element, in fp32 up to little in terms of the norm of all of it."""
    there = whole[where]
    assert block.shape == there.shape, what
    if not block.numel():
        return  # fewer rows than ranks
    difference = block - there
    if block.dtype == torch.float32:
        error, bound = float(difference.norm()), SINGLE_TOLERANCE * float(whole.norm())
    else:
        error, bound = float(difference.abs().max()), TOLERANCE * max(1.0, float(there.abs().max()))
    assert error <= bound, f"{what} differs by {error:.1e}, more than {bound:.1e}"


@pytest.mark.parametrize(
    ("size", "is_slow"),
    [(2, False), (4, False), *(pytest.param(size, True, marks=pytest.mark.slow) for size in (2, 4, 8))],
)
def test_layouts_compute_what_one_rank_computes(
    size: int, is_slow: bool, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """All layouts of a size in one start of its processes, which takes longer than the steps."""
    names = [n for n, case in CASES.items() if case.layout.world_size == size and (n not in QUICK) == is_slow]
    alone = sorted({CASES[name].alone for name in names})
    run_ranks(tmp_path / "alone", 1, alone)
    run_ranks(tmp_path / "ranks", size, names)
    for name in names:
        compare(name, read(tmp_path / "ranks", name), read(tmp_path / "alone", CASES[name].alone)[0])
    record_property("cases", names)
    record_property("layouts", [CASES[name].arrangement for name in names])


def compare(name: str, ranks: list[Saved], alone: Saved) -> None:
    """Losses, norms, loads, biases, choices, and every block of every gradient and parameter at every step."""
    case = CASES[name]
    relative = SINGLE_TOLERANCE if case.dtype == torch.float32 else TOLERANCE
    for rank, saved in enumerate(ranks):
        for here, there in zip(saved.figures, alone.figures, strict=True):
            assert here == pytest.approx(there, rel=relative), f"{name}, rank {rank}"
        for key, block in saved.blocks.items():
            if key.startswith(("gradient", "parameter")):
                where = tuple(slice(o, o + n) for o, n in zip(saved.offsets[key], block.shape, strict=True))
                assert_near(block, alone.blocks[key], where, f"{name}: {key} on rank {rank}")
            elif key.startswith("bias"):
                assert torch.equal(block, alone.blocks[key]), f"{name}: {key}"
    for key, whole in alone.blocks.items():
        if key.startswith("gradient"):
            assert _covered(ranks, key) == whole.numel(), f"{name}: {key}"
    for key in alone.blocks:
        if key.startswith("choice"):
            one = _choices([alone], CASES[case.alone], key)
            assert torch.equal(_choices(ranks, case, key), one), f"{name}: {key}"


def _covered(ranks: list[Saved], key: str) -> int:
    """Elements of a tensor that the ranks hold, each block counted once."""
    blocks = {(tuple(saved.offsets[key]), tuple(saved.blocks[key].shape)) for saved in ranks if key in saved.blocks}
    return sum(torch.Size(shape).numel() for _, shape in blocks)


def _choices(ranks: list[Saved], case: Case, key: str) -> Tensor:
    """The experts of each token of the global batch in a mixture layer at a step, sorted: [rows, positions, k]."""
    layout = case.layout
    # A context group has the positions in the order of its ranks, a tensor group those of its context rank.
    sizes = {"ring_size": layout.cp_ring, "heads_size": layout.cp_heads}
    spans = [span for place in range(layout.cp) for span in positions_of(place, **sizes, length=LENGTH)]
    in_order = torch.tensor([position for span in spans for position in span]).argsort()
    parts: dict[int, list[Tensor]] = {}
    for rank, saved in enumerate(ranks):
        if key in saved.blocks:
            chosen = saved.blocks[key].unflatten(1, (MICRO_BATCH, -1)).flatten(0, 1)
            parts.setdefault(layout.data_rank(rank), []).append(chosen)
    whole = [torch.cat(parts[data_rank], dim=1)[:, in_order] for data_rank in sorted(parts)]
    return torch.cat(whole).sort(-1).values
