"""Chosen kernels compute what the others do, forward and backward, and the log says which compute."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.config import kernels as choices
from firstlight.config.kernels import KernelsConfig
from firstlight.config.model import ModelConfig
from firstlight.config.recompute import FullRecompute, NoRecompute, Recompute, SelectiveRecompute
from firstlight.layout.mesh import Layout
from firstlight.models.decoder import Decoder
from firstlight.models.family import build_model
from firstlight.parallel.arithmetic import AS_KEPT, Arithmetic
from firstlight.parallel.kernels import ATTENTION, EXPERTS, LOSS, NORM, Circumstances, Kernels
from firstlight.parallel.recompute import apply_recompute
from tests.unit.models.tiny_model import deepseek, llama, of_family

MODELS = {
    "deepseek": deepseek(multi_token_prediction={}),
    "gpt_oss": of_family("gpt_oss"),
    "qwen3": of_family("qwen3"),
}
CPU = Circumstances(device=torch.device("cpu"), longest=32)
REFERENCE = KernelsConfig(attention="reference", experts="reference", norm="reference", loss="reference")


def built(model: ModelConfig, chosen: KernelsConfig, dtype: torch.dtype, recompute: Recompute) -> Decoder:
    decoder = Kernels.of(chosen, model, Layout(), AS_KEPT, CPU).in_what(build_model)(model, None).to(dtype)
    generator = torch.Generator().manual_seed(3)
    for parameter in decoder.parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(values * 0.1 + (1 if parameter.ndim == 1 else 0))
    apply_recompute(decoder, recompute)
    return decoder


def loss_and_gradients(decoder: Decoder) -> list[Tensor]:
    # More positions than the loss has in a block.
    tokens = torch.randint(96, (20, 33), generator=torch.Generator().manual_seed(4))
    begins = torch.zeros(20, 32, dtype=torch.bool)
    begins[:, [0, 11]] = True
    sums = decoder(tokens[:, :-1], tokens[:, 1:], torch.ones(20, 32), begins)
    loss = sums.lm + sums.mtp.sum() + sums.balance
    loss.backward()
    return [loss, *(one.grad for one in decoder.parameters() if one.grad is not None)]


@pytest.mark.parametrize("recompute", [NoRecompute(), FullRecompute(), SelectiveRecompute()], ids=lambda one: one.kind)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_references_give_the_same_loss_and_gradients(
    name: str, dtype: torch.dtype, tolerance: float, recompute: Recompute
) -> None:
    model = MODELS[name]
    usual = loss_and_gradients(built(model, KernelsConfig(), dtype, recompute))
    defined = loss_and_gradients(built(model, REFERENCE, dtype, NoRecompute()))
    assert len(usual) == len(defined)
    for ours, theirs in zip(usual, defined, strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("kernel", ["blocks", "fused"])
def test_each_attention_is_the_reference(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, taken = MODELS["deepseek"], []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **o: taken.append(1) or attend(*a, **o)
    )
    chosen = KernelsConfig.model_validate({"attention": kernel})
    found = loss_and_gradients(built(model, chosen, torch.float64, NoRecompute()))
    assert bool(taken) == (kernel == "fused")
    for ours, theirs in zip(
        found, loss_and_gradients(built(model, REFERENCE, torch.float64, NoRecompute())), strict=True
    ):
        assert (ours - theirs).norm() <= 1e-10 * theirs.norm()


def test_what_is_taken_depends_on_device_length_and_precision() -> None:
    def attention_of(device: str, longest: int, arithmetic: Arithmetic) -> str:
        around = Circumstances(device=torch.device(device), longest=longest)
        return Kernels.of(KernelsConfig(), llama(), Layout(), arithmetic, around).taken["attention"]

    assert attention_of("cpu", 512, AS_KEPT) == "blocks"
    assert attention_of("cpu", 513, AS_KEPT) == "fused"
    assert attention_of("cuda", 512, AS_KEPT) == "fused"
    assert attention_of("cpu", 512, Arithmetic(product_dtype=torch.bfloat16)) == "fused"


def test_a_kernel_for_cpu_is_refused_elsewhere() -> None:
    around = Circumstances(device=torch.device("cuda"), longest=32)
    with pytest.raises(InputError, match=r"kernels.attention = blocks is a kernel for CPU, .* cuda; use auto or fused"):
        Kernels.of(KernelsConfig(attention="blocks"), llama(), Layout(), AS_KEPT, around)


def test_a_choice_is_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    for operator, table in {"attention": ATTENTION, "experts": EXPERTS, "norm": NORM, "loss": LOSS}.items():
        kernel = table["reference"]

        def noting(*args: object, _kernel: object = kernel, _operator: str = operator, **others: object) -> object:
            called.add(_operator)
            return _kernel(*args, **others)

        monkeypatch.setitem(table, "reference", noting)
    loss_and_gradients(built(MODELS["deepseek"], REFERENCE, torch.float32, NoRecompute()))
    assert called == {"attention", "experts", "norm", "loss"}
    called.clear()
    loss_and_gradients(built(MODELS["deepseek"], KernelsConfig(), torch.float32, NoRecompute()))
    assert not called


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (choices.AttentionKernel, ATTENTION),
        (choices.ExpertsKernel, EXPERTS),
        (choices.NormKernel, NORM),
        (choices.LossKernel, LOSS),
    ],
    ids=["attention", "experts", "norm", "loss"],
)
def test_there_is_a_kernel_for_each_name(names: object, table: dict[str, object]) -> None:
    assert set(get_args(names)) == {"auto", *table}


@pytest.mark.parametrize(
    ("model", "layout", "chosen", "line"),
    [
        (deepseek(), Layout(), {}, "attention blocks, experts grouped_mm, norm fused, loss linear_cross_entropy"),
        (deepseek(), Layout(), {"experts": "reference"}, "experts reference"),
        (deepseek(), Layout(), {"attention": "fused"}, "attention fused"),
        (of_family("gpt_oss"), Layout(), {}, "attention blocks where no window is"),
        (deepseek(feed_forward={"moe_intermediate_size": 18}), Layout(), {}, "experts reference"),
        (deepseek(feed_forward={"moe_intermediate_size": 16}), Layout(etp=8), {}, "experts reference"),
        (llama(), Layout(cp=2, dp_shard=2), {}, "attention ring, norm fused, loss linear_cross_entropy"),
        (llama(), Layout(cp=4, cp_heads=2), {}, "attention rings of heads"),
        (llama(), Layout(tp=2), {}, "loss cut vocabulary"),
        (llama(z_loss=0.1), Layout(), {"norm": "reference"}, "norm reference, loss reference"),
    ],
)
def test_log_says_what_computes(model: ModelConfig, layout: Layout, chosen: dict[str, str], line: str) -> None:
    described = Kernels.of(KernelsConfig.model_validate(chosen), model, layout, Arithmetic(), CPU).describe()
    assert described.startswith("kernels: attention ")
    assert line in described
