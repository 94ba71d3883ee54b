"""Moments in host memory: the same updates to the bit, and on the device only those of one part at a time."""

from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.held_bytes import HeldBytes
from firstlight.config.optimizer import AdamWConfig
from firstlight.optim import adamw as adamw_module
from firstlight.optim.kept_moments import parts_of
from firstlight.optim.optimizer import Optimizer, Surroundings

SHAPES = {"matrix": (50, 70), "experts": (3, 40, 60), "norm": (70,), "bias": (40,), "last": (80, 90)}
PART_BYTES = 30_000


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw_module, "parts_of", partial(parts_of, part_bytes=PART_BYTES))


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def optimizer_of(owners: dict[str, nn.Parameter], *, in_host: bool) -> Optimizer:
    around = Surroundings(
        learning_rate=lambda step: 1e-2 / (step + 1),
        sum_over_ranks=lambda tensor: tensor,
        after_update=lambda: None,
        is_fused=True,
        keeps_moments_in_host=in_host,
    )
    return Optimizer(owners, AdamWConfig(learning_rate=1e-2, max_grad_norm=0.5), around)


def give_gradients(owners: dict[str, nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in owners.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_updates_are_the_same_to_the_bit() -> None:
    here, there = parameters(), parameters()
    on_device, in_host = optimizer_of(here, in_host=False), optimizer_of(there, in_host=True)
    for step in range(5):
        for owners, optimizer in ((here, on_device), (there, in_host)):
            give_gradients(owners, step)
            optimizer.step()
    assert all(torch.equal(there[name], parameter) for name, parameter in here.items())
    moments = in_host.tensors()
    assert list(moments) == list(on_device.tensors())
    assert all(torch.equal(moments[name], moment) for name, moment in on_device.tensors().items())


def test_saved_moments_are_taken_up() -> None:
    first, second = parameters(), parameters()
    before, after = optimizer_of(first, in_host=False), optimizer_of(second, in_host=True)
    give_gradients(first, 0)
    before.step()
    with torch.no_grad():
        for name, parameter in first.items():
            second[name].copy_(parameter)
        for name, moment in before.tensors().items():
            after.tensors()[name].copy_(moment)
    after.load_state_dict(before.state_dict())
    for owners, optimizer in ((first, before), (second, after)):
        give_gradients(owners, 1)
        optimizer.step()
    assert all(torch.equal(second[name], parameter) for name, parameter in first.items())


def test_the_device_holds_the_moments_of_one_part_at_a_time() -> None:
    owners = parameters()
    optimizer = optimizer_of(owners, in_host=True)
    give_gradients(owners, 0)
    parts = parts_of(list(owners.values()), PART_BYTES)
    assert [len(part) for part in parts] == [1, 3, 1]
    largest = max(2 * sum(parameter.nbytes for parameter in part) for part in parts)
    every = 2 * sum(parameter.nbytes for parameter in owners.values())
    with HeldBytes(tracks_peak=True) as held:
        optimizer.step()
        left = held.now()
    # Norms and scalars aside, nothing else is made.
    assert largest <= held.peak < largest + 1000 < every
    assert left == 8 * len(owners), "the squared norm of each gradient, in fp64"
