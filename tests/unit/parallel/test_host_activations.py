"""Activations that wait elsewhere: the same gradients to the bit, and the graph holds hardly anything itself.

The device here is the CPU, so "elsewhere" is a file that is mapped into memory: no operator made it, and what the graph
holds beside it can be counted. Pinned memory and copies that overlap with computation need an accelerator.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.held_bytes import HeldBytes
from firstlight.base.errors import InputError
from firstlight.config.recompute import FullRecompute, LayerRange, NoRecompute, OffloadConfig, Recompute
from firstlight.layout.mesh import Layout
from firstlight.models.decoder import Decoder
from firstlight.parallel.apply import Keeping, build_parallel, parameter_names
from firstlight.parallel.device import require_memory_apart
from firstlight.parallel.host_activations import HostActivations, offload_activations, pinned_copy
from firstlight.parallel.recompute import layers_in
from tests.unit.models.tiny_model import deepseek, random_tokens, randomise

CONFIG = deepseek(multi_token_prediction={})


def mapped_copies(folder: Path) -> Callable[[Tensor], Tensor]:
    """Copies into files."""

    def copy(tensor: Tensor) -> Tensor:
        array = tensor.detach().numpy()
        path = folder / f"{len(list(folder.iterdir()))}.npy"
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=array.dtype, shape=array.shape)
        mapped[...] = array
        return torch.from_numpy(mapped)

    return copy


def built(recompute: Recompute) -> Decoder:
    keeping = Keeping(recompute=recompute)
    (model,) = build_parallel(CONFIG, Layout(), keeping, device=torch.device("cpu"), seed=3).stages
    randomise(model, seed=0)
    return model


def loss_of(model: Decoder) -> Tensor:
    tokens = random_tokens(4, 65)
    sums = model(tokens[:, :-1], tokens[:, 1:], torch.ones(4, 64))
    loss: Tensor = sums.lm + sums.mtp.sum() + sums.balance
    return loss


def measured(model: Decoder) -> tuple[int, dict[str, Tensor]]:
    """Bytes held by the graph after the forward pass, and the gradients."""
    with HeldBytes() as held:
        loss = loss_of(model)
        left = held.now()
    loss.backward()
    return left, {name: p.grad for name, p in parameter_names(model).items() if p.grad is not None}


@pytest.mark.parametrize("recompute", [NoRecompute(), FullRecompute()], ids=lambda recompute: recompute.kind)
def test_the_graph_holds_less_and_gradients_are_the_same(recompute: Recompute, tmp_path: Path) -> None:
    kept, expected = measured(built(recompute))
    model = built(recompute)
    offload_activations(model, layers_in(model, LayerRange()), mapped_copies(tmp_path))
    left, gradients = measured(model)
    inputs = 4 * 4 * 64 * CONFIG.hidden_size * 4
    assert kept - left > (0.8 * kept if recompute.kind == "none" else 0.7 * inputs)
    assert gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], gradient) for name, gradient in expected.items())


def test_only_the_layers_of_the_range_are_moved(tmp_path: Path) -> None:
    left = []
    for last in (0, 1, 3):
        model = built(NoRecompute())
        (tmp_path / str(last)).mkdir()
        offload_activations(model, layers_in(model, LayerRange(last=last)), mapped_copies(tmp_path / str(last)))
        left.append(measured(model)[0])
    assert left[0] > left[1] > left[2]


def test_a_pinned_copy_is_a_copy() -> None:
    tensor = torch.arange(6.0).view(2, 3).T
    copy = pinned_copy(tensor)
    assert torch.equal(copy, tensor)
    assert copy.data_ptr() != tensor.data_ptr()


def test_parameters_and_small_tensors_stay() -> None:
    layer = nn.Linear(64, 64)
    activations = HostActivations(layer, pinned_copy)
    for tensor in (layer.weight, layer.weight.detach().t(), torch.ones(8)):
        assert activations.pack(tensor) is tensor


def test_what_is_saved_twice_is_copied_once_and_what_has_changed_again() -> None:
    copies: list[Tensor] = []

    def to_host(tensor: Tensor) -> Tensor:
        copies.append(tensor.clone())
        return copies[-1]

    activations = HostActivations(nn.Identity(), to_host)
    tensor = torch.randn(1000)
    first, second = activations.pack(tensor), activations.pack(tensor.detach())
    before = tensor.clone()
    tensor.mul_(2)
    third = activations.pack(tensor)
    assert len(copies) == 2
    for held, expected in ((first, before), (second, before), (third, tensor)):
        assert torch.equal(activations.unpack(held), expected)


def test_memory_that_is_given_away_again_is_not_taken_for_the_old() -> None:
    activations = HostActivations(nn.Identity(), pinned_copy)
    for value in range(50):
        tensor = torch.full((1000,), float(value))
        held = activations.pack(tensor)
        del tensor
        assert torch.equal(activations.unpack(held), torch.full((1000,), float(value)))


@pytest.mark.parametrize(
    ("offload", "message"),
    [
        (OffloadConfig(activations=LayerRange()), "offload.activations .* the CPU, has no other; use null"),
        (OffloadConfig(optimizer_state="host"), "offload.optimizer_state .* the CPU, has no other; use device"),
    ],
)
def test_a_device_without_memory_of_its_own_is_refused(offload: OffloadConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        require_memory_apart(torch.device("cpu"), offload)
    require_memory_apart(torch.device("cuda", 0), offload)
    require_memory_apart(torch.device("cpu"), OffloadConfig())
