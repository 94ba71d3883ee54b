"""Initial values: a function of seed and name only, so that every layout starts alike."""

import pytest
import torch

from firstlight.models.initialization import initial_slice

MATRIX, STACK = torch.Size((40, 30)), torch.Size((6, 5, 7))
WHOLE = slice(None)


def value(name: str, shape: torch.Size, rows: slice = WHOLE, *, std: float = 0.02, seed: int = 1) -> torch.Tensor:
    return initial_slice(name, shape, rows, std=std, seed=seed)


@pytest.mark.parametrize("shape", [MATRIX, STACK], ids=["matrix", "experts"])
def test_value_follows_from_seed_and_name(shape: torch.Size) -> None:
    first = value("layers.0.a", shape)
    torch.manual_seed(123)
    torch.rand(7)
    assert torch.equal(value("layers.0.a", shape), first)
    assert not torch.equal(value("layers.1.a", shape), first)
    assert not torch.equal(value("layers.0.a", shape, seed=2), first)
    assert first.dtype == torch.float32
    assert first.shape == shape


def test_drawing_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    value("layers.0.a", MATRIX)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("shape", [torch.Size((6,)), MATRIX, STACK], ids=["vector", "matrix", "experts"])
@pytest.mark.parametrize("rows", [slice(0, 2), slice(2, 5), slice(5, 6), slice(4, 4), slice(6, 6)], ids=str)
def test_slice_is_the_slice_of_the_whole(shape: torch.Size, rows: slice) -> None:
    assert torch.equal(value("layers.0.b", shape, rows), value("layers.0.b", shape)[rows])


def test_experts_differ() -> None:
    stack = value("experts.gate_proj", STACK)
    assert len({tuple(expert.flatten().tolist()) for expert in stack}) == 6


def test_expert_does_not_depend_on_how_many_there_are() -> None:
    more = value("experts.gate_proj", torch.Size((12, 5, 7)))
    assert torch.equal(value("experts.gate_proj", STACK), more[:6])


@pytest.mark.parametrize("shape", [torch.Size((400, 500)), torch.Size((20, 100, 100))], ids=["matrix", "experts"])
@pytest.mark.parametrize("std", [0.006, 0.02])
def test_matrices_are_normal(shape: torch.Size, std: float) -> None:
    drawn = value("layers.3.attention.o_proj.weight", shape, std=std)
    assert drawn.std().item() == pytest.approx(std, rel=0.01)
    assert drawn.mean().abs().item() < 0.01 * std
    # Not cut off: 0.27 % of a normal distribution is beyond three deviations.
    assert (drawn.abs() > 3 * std).double().mean().item() == pytest.approx(0.0027, abs=0.0006)


def test_norms_start_at_one_and_biases_at_zero() -> None:
    assert torch.equal(value("layers.0.attention_norm.weight", torch.Size((6,))), torch.ones(6))
    assert torch.equal(value("layers.0.attention.q_proj.bias", torch.Size((6,))), torch.zeros(6))
    assert torch.equal(value("layers.0.attention.sinks", torch.Size((6,)), slice(2, 5)), torch.zeros(3))
    # One bias for each expert: a matrix in shape only.
    stacked = "layers.0.feed_forward.experts.gate_bias"
    assert torch.equal(value(stacked, torch.Size((6, 5)), slice(2, 5)), torch.zeros(3, 5))
