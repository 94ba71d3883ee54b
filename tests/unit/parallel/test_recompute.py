"""Every kind of recomputation: the same gradients to the bit, fewer bytes held, and nothing done again that is kept."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.held_bytes import HeldBytes
from firstlight.config.model import ModelConfig
from firstlight.config.recompute import (
    FullRecompute,
    LayerRange,
    ModuleRecompute,
    NoRecompute,
    Recompute,
    SelectiveRecompute,
)
from firstlight.layout.mesh import Layout
from firstlight.models.decoder import Decoder
from firstlight.models.router import Routed
from firstlight.parallel.apply import Keeping, build_parallel, parameter_names, routers
from tests.unit.models.tiny_model import deepseek, of_family, random_tokens, randomise

DEEPSEEK = deepseek(multi_token_prediction={})
GPT_OSS = of_family("gpt_oss")
NONE = NoRecompute()
KINDS: dict[str, Recompute] = {
    "full": FullRecompute(),
    "full, communication kept": FullRecompute(communication="kept"),
    "full, first two layers": FullRecompute(layers=LayerRange(last=1)),
    "full, every second layer": FullRecompute(layers=LayerRange(first=1, every=2)),
    "attention": ModuleRecompute(modules=("attention",)),
    "feed_forward": ModuleRecompute(modules=("feed_forward",)),
    "experts": ModuleRecompute(modules=("experts",)),
    "shared_expert": ModuleRecompute(modules=("shared_expert",)),
    "selective": SelectiveRecompute(),
    "selective, attention kept": SelectiveRecompute(kept=("attention",)),
    "selective, up-projection repeated": SelectiveRecompute(repeated_in=("latent_up_projection",)),
    "selective, experts repeated": SelectiveRecompute(repeated_in=("experts", "shared_expert")),
}


def built(recompute: Recompute, config: ModelConfig = DEEPSEEK, *, layout: Layout | None = None) -> Decoder:
    keeping = Keeping(recompute=recompute)
    (model,) = build_parallel(config, layout or Layout(), keeping, device=torch.device("cpu"), seed=3).stages
    if layout is None:
        randomise(model, seed=0)
    return model


def loss_of(model: Decoder, rows: int = 4, length: int = 64) -> Tensor:
    tokens = random_tokens(rows, length + 1)
    sums = model(tokens[:, :-1], tokens[:, 1:], torch.ones(rows, length))
    loss: Tensor = sums.lm + sums.mtp.sum() + sums.balance
    return loss


def gradients(recompute: Recompute, config: ModelConfig) -> dict[str, Tensor]:
    model = built(recompute, config)
    loss_of(model).backward()
    return {name: p.grad for name, p in parameter_names(model).items() if p.grad is not None}


@pytest.fixture(scope="module")
def plain() -> dict[str, dict[str, Tensor]]:
    return {config.family: gradients(NONE, config) for config in (DEEPSEEK, GPT_OSS)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [DEEPSEEK, GPT_OSS], ids=lambda config: config.family)
def test_gradients_are_the_same_to_the_bit(plain: dict[str, dict[str, Tensor]], config: ModelConfig, kind: str) -> None:
    expected, recomputed = plain[config.family], gradients(KINDS[kind], config)
    assert recomputed.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(recomputed[name], gradient), name


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("kind", ["full", "full, communication kept", "selective"])
def test_autocast_is_the_same_in_the_second_computation(kind: str) -> None:
    found = []
    for recompute in (NONE, KINDS[kind]):
        model = built(recompute)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model)
            loss.backward()
        found.append({name: p.grad for name, p in parameter_names(model).items()})
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


def bytes_held(recompute: Recompute) -> int:
    """What a forward pass leaves for the backward pass."""
    model = built(recompute)
    with HeldBytes() as held:
        loss = loss_of(model)
        left = held.now()
    loss.backward()
    return left


def test_each_kind_holds_less() -> None:
    held = {kind: bytes_held(recompute) for kind, recompute in {"none": NONE, **KINDS}.items()}
    assert all(held[kind] < 0.97 * held["none"] for kind in KINDS), held
    # What is left of a full recomputation is the layers' inputs, the embedding and the head's loss.
    assert held["full"] < 0.2 * held["none"]
    assert held["full"] < held["full, first two layers"] < held["none"]
    assert held["full"] < held["full, every second layer"] < held["none"]
    # In fp32 on CPU what attention gives includes its softmax.
    assert held["full"] < held["selective, attention kept"] < held["selective"] < 0.85 * held["none"]
    assert held["selective, up-projection repeated"] < held["selective"]
    assert held["selective, experts repeated"] < held["selective"]


@pytest.mark.parametrize("kind", ["full", "feed_forward", "selective", "full, communication kept"])
def test_the_router_chooses_again_what_it_chose(kind: str) -> None:
    model = built(KINDS[kind])
    first: dict[nn.Module, Tensor] = {}
    again: dict[nn.Module, Tensor] = {}

    def observe(router: nn.Module, _inputs: object, routed: Routed) -> None:
        is_again = torch._C._current_graph_task_id() != -1
        (again if is_again else first)[router] = routed.experts_tk.clone()

    for router in routers(model).values():
        router.register_forward_hook(observe)
    loss_of(model).backward()
    assert len(again) == len(first) == 3
    assert all(torch.equal(again[router], chosen) for router, chosen in first.items())


class Operators(TorchDispatchMode):
    """Counts operators that really run."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def backward_operators(recompute: Recompute, *, layout: Layout | None = None) -> Counter[str]:
    model = built(recompute, layout=layout)
    loss = loss_of(model)
    with Operators() as operators:
        loss.backward()
    return operators.counts


PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::_grouped_mm")
COLLECTIVES = ("all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce")
ATTENTION = "firstlight::causal_attention"


def test_what_is_kept_does_not_run_again() -> None:
    none, full = backward_operators(NONE), backward_operators(KINDS["full"])
    selective = backward_operators(KINDS["selective"])
    for name in (*PRODUCTS, ATTENTION, "aten::topk"):
        assert selective[name] == none[name], name
    assert full[ATTENTION] == len(built(NONE).layers) + 1
    assert all(full[name] > none[name] for name in ("aten::mm", "aten::topk"))
    # Activations are computed again.
    assert full["aten::silu"] == selective["aten::silu"] > none["aten::silu"] == 0
    # Of four layers with latent attention, the two up-projections of each.
    repeated = backward_operators(KINDS["selective, up-projection repeated"])
    assert repeated["aten::mm"] == selective["aten::mm"] + 2 * 4
    assert repeated[ATTENTION] == 0


@pytest.fixture
def two_ranks() -> Iterator[None]:
    """A group of two of which this process plays one: its collectives do nothing, and can be counted."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("two_ranks")
def test_communication_is_kept_or_repeated_as_configured() -> None:
    found = {
        kind: sum(
            backward_operators(recompute, layout=Layout(tp=2))[f"_c10d_functional::{name}"] for name in COLLECTIVES
        )
        for kind, recompute in {
            "none": NONE,
            "full": FullRecompute(),
            "full kept": FullRecompute(communication="kept"),
            "attention": ModuleRecompute(modules=("attention",)),
            "attention kept": ModuleRecompute(modules=("attention",), communication="kept"),
            "selective": SelectiveRecompute(),
            "selective repeated": SelectiveRecompute(kept=("products", "attention")),
        }.items()
    }
    assert found["full kept"] == found["attention kept"] == found["selective"] == found["none"], found
    assert found["none"] < found["attention"] < found["full"] == found["selective repeated"], found
