"""Bytes that a layer keeps for its backward pass by arithmetic, against what autograd saves of the built layer."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.held_bytes import HeldBytes
from firstlight.config.model import ModelConfig
from firstlight.config.recompute import (
    FullRecompute,
    ModuleRecompute,
    NoRecompute,
    Recompute,
    SelectiveRecompute,
)
from firstlight.layout.activations import Numbers, Portion, saved_of_layer
from firstlight.layout.mesh import Layout
from firstlight.models.decoder import Block, Decoder
from firstlight.models.places import places_of
from firstlight.parallel.recompute import apply_recompute
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, of_family

MODELS: dict[str, ModelConfig] = {
    "llama": llama(),
    "deepseek": deepseek(),
    **{
        name: of_family(name, attention={**OTHER_FAMILIES[name]["attention"], "window": None})
        for name in OTHER_FAMILIES
        if name not in ("deepseek_v2", "gpt_oss")
    },
    "deepseek_v2": of_family("deepseek_v2"),
}
SEQUENCES, LENGTH = 2, 16
PORTION = Portion(sequences=SEQUENCES, length=LENGTH)
CASES = [(name, layer) for name, model in MODELS.items() for layer in (0, model.num_hidden_layers - 1)]


@contextmanager
def counted(block: nn.Module, places: tuple[Tensor, ...]) -> Iterator[dict[int, int]]:
    """Storages that autograd saves, by address, without parameters and the table of angles, which layers share."""
    shared = {one.untyped_storage().data_ptr() for one in (*block.parameters(), *places)}
    alive: list[Tensor] = []
    sizes: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        alive.append(saved)
        storage = saved.untyped_storage()
        if storage.data_ptr() not in shared:
            sizes[storage.data_ptr()] = storage.nbytes()
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved):
        yield sizes


def measured(model: ModelConfig, layer: int, *, is_mixed: bool) -> int:
    torch.manual_seed(0)
    block = Block(model, layer)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.1)
    places = places_of(model.attention, torch.zeros(SEQUENCES, LENGTH, dtype=torch.int64))
    hidden = torch.randn(SEQUENCES, LENGTH, model.hidden_size, requires_grad=True)
    with (
        counted(block, (places.rope.cos_sf, places.rope.sin_sf)) as sizes,
        torch.autocast("cpu", torch.bfloat16, enabled=is_mixed),
    ):
        out, load = block(hidden, places)
        # What the sum of the balance loss over layers would keep is not of this layer.
        kept = (out, load)
    assert kept
    return sum(sizes.values())


def by_arithmetic(model: ModelConfig, layer: int, numbers: Numbers, recompute: Recompute) -> int:
    return sum(one.size for one in saved_of_layer(model, layer, Layout(), PORTION, numbers, recompute))


@pytest.mark.parametrize(("name", "layer"), CASES)
@pytest.mark.parametrize("is_mixed", [False, True], ids=["fp32", "bf16"])
def test_saved_bytes_are_those_of_autograd(name: str, layer: int, is_mixed: bool) -> None:
    numbers = Numbers(product=2 if is_mixed else 4, pads_values=True, keeps_softmax=True)
    assert by_arithmetic(MODELS[name], layer, numbers, NoRecompute()) == measured(
        MODELS[name], layer, is_mixed=is_mixed
    )


RECOMPUTED: dict[str, Recompute] = {
    "full": FullRecompute(),
    "attention": ModuleRecompute(modules=("attention",)),
    "feed_forward": ModuleRecompute(modules=("feed_forward",)),
    "experts": ModuleRecompute(modules=("experts",)),
    "shared": ModuleRecompute(modules=("shared_expert",)),
    "selective": SelectiveRecompute(),
    "attention_alone": SelectiveRecompute(kept=("attention",)),
    "latent": SelectiveRecompute(repeated_in=("latent_up_projection",)),
    "repeated": SelectiveRecompute(repeated_in=("feed_forward",)),
}
HELD = [
    (name, kind, is_mixed)
    for name in ("llama", "deepseek", "deepseek_v2", "qwen3_moe", "glm4")
    for kind in RECOMPUTED
    for is_mixed in (False, True)
    if name.startswith("deepseek") or kind not in ("shared", "latent")
    if name not in ("llama", "glm4") or kind != "experts"
]


@pytest.mark.parametrize(("name", "kind", "is_mixed"), HELD)
def test_held_bytes_are_those_that_recomputation_leaves(name: str, kind: str, is_mixed: bool) -> None:
    model, recompute = MODELS[name], RECOMPUTED[kind]
    layer = model.num_hidden_layers - 1
    torch.manual_seed(0)
    decoder = Decoder(model)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.1)
    apply_recompute(decoder, recompute)
    places = places_of(model.attention, torch.zeros(SEQUENCES, LENGTH, dtype=torch.int64))
    hidden = torch.randn(SEQUENCES, LENGTH, model.hidden_size, requires_grad=True)
    with HeldBytes() as held:
        # Autocast lets go of its casts of weights when it ends.
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            out, load = decoder.layers[str(layer)](hidden, places)
        given = [out] if load is None else [out, load.balance_loss, load.z_loss, load.load_e]
        after = held.now() - sum(one.untyped_storage().nbytes() for one in given)
    numbers = Numbers(product=2 if is_mixed else 4, pads_values=True, keeps_softmax=True)
    # The layer's input was there before.
    assert after == by_arithmetic(model, layer, numbers, recompute) - hidden.nbytes
