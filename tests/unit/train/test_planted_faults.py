"""Planted faults: of the rank, in the step, once."""

from pathlib import Path

import pytest
import torch

from firstlight.config.faults import PlantedFault
from firstlight.train.planted_faults import PlantedFaults


def parameters() -> list[torch.Tensor]:
    made = [torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)]
    for one in made:
        one.grad = torch.ones_like(one)
    return made


def planted(tmp_path: Path, *faults: PlantedFault, rank: int = 0) -> tuple[PlantedFaults, list[torch.Tensor]]:
    made = parameters()
    return PlantedFaults(faults, made, layer=torch.nn.Identity(), rank=rank, marks=tmp_path / "marks"), made


def test_a_fault_happens_once_in_a_run(tmp_path: Path) -> None:
    fault = PlantedFault(kind="raise", step=2)
    one, _ = planted(tmp_path, fault)
    one.before_step(1)
    with pytest.raises(RuntimeError, match="a planted fault of rank 0 in step 2"):
        one.before_step(2)
    again, _ = planted(tmp_path, fault)
    again.before_step(2)


def test_a_fault_of_another_rank_is_not_mine(tmp_path: Path) -> None:
    one, _ = planted(tmp_path, PlantedFault(kind="raise", step=2, rank=1))
    one.before_step(2)


def test_gradients_that_are_not_finite(tmp_path: Path) -> None:
    one, made = planted(tmp_path, PlantedFault(kind="not_finite", step=2))
    one.before_update(2)
    assert [bool(torch.isfinite(each.grad).all()) for each in made if each.grad is not None] == [False, True]


def test_a_spike_of_all_gradients(tmp_path: Path) -> None:
    one, made = planted(tmp_path, PlantedFault(kind="spike", step=2))
    one.before_update(2)
    assert [float(each.grad.max()) for each in made if each.grad is not None] == [1e4, 1e4]


def test_a_flipped_bit_of_a_weight(tmp_path: Path) -> None:
    one, made = planted(tmp_path, PlantedFault(kind="flip_bit", step=2))
    one.before_update(2)
    assert int((made[0] != 1).sum()) == 1
    assert torch.equal(made[1], torch.ones(2, 2))
