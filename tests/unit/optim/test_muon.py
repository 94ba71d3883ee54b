"""Muon against torch's on single matrices and against the formula on stacks and heads; groups, moments, restarts."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from firstlight.config.optimizer import AdamWConfig, MuonConfig, OptimizerSection
from firstlight.config.schedule import ScheduledNumber, unscheduled
from firstlight.optim.optimizer import Optimizer, Surroundings

SHAPES = {
    "embedding.weight": (11, 6),
    "layers.0.attention.q_b_proj.weight": (12, 5),
    "layers.0.attention.o_proj.weight": (6, 9),
    "layers.0.feed_forward.router.weight": (4, 6),
    "layers.0.feed_forward.experts.gate_proj": (4, 8, 6),
    "layers.0.feed_forward.experts.gate_bias": (4, 8),
    "layers.0.attention_norm.weight": (6,),
    "head.weight": (11, 6),
}
MATRICES = [name for name in SHAPES if name.endswith("_proj.weight")]
STACK = "layers.0.feed_forward.experts.gate_proj"
REST = [name for name in SHAPES if name not in (*MATRICES, STACK)]
RATE, STEPS = 2e-3, 50


def parameters(*, dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for name, shape in SHAPES.items()}


def give_gradients(owners: dict[str, nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in owners.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def optimizer_of(
    owners: dict[str, nn.Parameter], config: OptimizerSection, *, in_host: bool = False, num_heads: int = 1
) -> Optimizer:
    around = Surroundings(
        learning_rate=lambda step: RATE / (step + 1),
        sum_over_ranks=lambda tensor: tensor,
        after_update=lambda: None,
        is_fused=True,
        keeps_moments_in_host=in_host,
        num_heads=num_heads,
    )
    return Optimizer(owners, config, around)


def muon(**keys: Any) -> MuonConfig:
    return MuonConfig(**{"learning_rate": RATE, "max_grad_norm": None, "weight_decay": 0.3, **keys})


def take(owners: dict[str, nn.Parameter], optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        give_gradients(owners, step)
        optimizer.step()


def formula(value: Tensor, gradients: list[Tensor], *, heads: int = 1) -> Tensor:
    """Equation 4 of arXiv:2502.16982 in fp64 by singular values: Newton-Schulz acts on each of them alone."""
    momentum = torch.zeros_like(value)
    for step, gradient in enumerate(gradients):
        momentum = 0.95 * momentum + gradient
        direction = (0.95 * momentum + gradient).unflatten(0, (heads, -1))
        left, sizes, right = torch.linalg.svd(direction, full_matrices=False)
        x = sizes / sizes.square().sum(-1, keepdim=True).sqrt()
        for _ in range(5):
            x = 3.4445 * x - 4.775 * x**3 + 2.0315 * x**5
        moved = ((left * x.unsqueeze(-2)) @ right).flatten(0, 1)
        scale = 0.2 * math.sqrt(max(direction.shape[-2:]))
        value = value * (1 - RATE / (step + 1) * 0.3) - RATE / (step + 1) * scale * moved
    return value


@pytest.mark.parametrize("is_nesterov", [True, False], ids=["nesterov", "plain"])
def test_fifty_steps_are_torchs(is_nesterov: bool) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = optimizer_of(ours, muon(is_nesterov=is_nesterov))
    # torch takes single matrices only: of a stack, each one for itself.
    experts = [nn.Parameter(one.detach().clone()) for one in theirs[STACK]]
    reference = torch.optim.Muon(
        [*(theirs[name] for name in MATRICES), *experts],
        weight_decay=0.3,
        nesterov=is_nesterov,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [
            {"params": [theirs[name] for name in REST if name.endswith(("norm.weight", "bias"))], "weight_decay": 0.0},
            {"params": [theirs[n] for n in REST if not n.endswith(("norm.weight", "bias"))], "weight_decay": 0.3},
        ],
        betas=(0.9, 0.95),
    )
    for step in range(STEPS):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        assert theirs[STACK].grad is not None
        for expert, gradient in zip(experts, theirs[STACK].grad, strict=True):
            expert.grad = gradient.clone()
        for group in (*reference.param_groups, *adamw.param_groups):
            group["lr"] = RATE / (step + 1)
        optimizer.step()
        reference.step()
        adamw.step()
        with torch.no_grad():
            theirs[STACK].copy_(torch.stack(list(experts)))
        for name in SHAPES:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("heads", [1, 3])
def test_fifty_steps_are_the_formula(heads: int) -> None:
    owners = parameters(dtype=torch.float64)
    before = {name: parameter.detach().clone() for name, parameter in owners.items()}
    config = muon(newton_schulz_precision="full", splits_heads=heads > 1)
    take(owners, optimizer_of(owners, config, num_heads=heads), range(STEPS))
    gradients: dict[str, list[Tensor]] = {name: [] for name in owners}
    for step in range(STEPS):
        give_gradients(owners, step)
        for name, parameter in owners.items():
            assert parameter.grad is not None
            gradients[name].append(parameter.grad)
    for name in MATRICES:
        expected = formula(before[name], gradients[name], heads=heads if "q_b_proj" in name else 1)
        torch.testing.assert_close(owners[name].detach(), expected, rtol=0, atol=1e-9)
    for expert in range(4):
        expected = formula(before[STACK][expert], [gradient[expert] for gradient in gradients[STACK]])
        torch.testing.assert_close(owners[STACK][expert].detach(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("in_host", [False, True], ids=["device", "host"])
@pytest.mark.parametrize("moments", ["full", "bf16"])
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_restart_in_the_middle_is_the_same_to_the_bit(kind: str, moments: Any, in_host: bool) -> None:
    config = muon(moments=moments) if kind == "muon" else AdamWConfig(learning_rate=RATE, moments=moments)
    through, first, second = parameters(), parameters(), parameters()
    take(through, optimizer_of(through, config, in_host=in_host), range(8))
    before = optimizer_of(first, config, in_host=in_host)
    take(first, before, range(4))
    after = optimizer_of(second, config, in_host=in_host)
    with torch.no_grad():
        for name, tensor in (first | before.tensors()).items():
            (second | after.tensors())[name].copy_(tensor)
    after.load_state_dict(before.state_dict())
    take(second, after, range(4, 8))
    for name in SHAPES:
        assert torch.equal(through[name], second[name]), name


def test_moments_in_bfloat16_are_half_the_bytes_and_near() -> None:
    full, half = parameters(), parameters()
    for owners, moments in ((full, "full"), (half, "bf16")):
        optimizer = optimizer_of(owners, AdamWConfig(learning_rate=RATE, moments=moments))
        take(owners, optimizer, range(10))
        dtypes = {tensor.dtype for tensor in optimizer.tensors().values()}
        assert dtypes == {torch.bfloat16 if moments == "bf16" else torch.float32}
    for name, parameter in full.items():
        difference = (parameter - half[name]).abs().max().item()
        assert 0 < difference < RATE, name


@pytest.mark.parametrize("kind", [muon, lambda **keys: AdamWConfig(learning_rate=RATE, weight_decay=0.3, **keys)])
def test_groups_have_their_rates_and_decays(kind: Any) -> None:
    """Gradients of zero: only the decay moves what it moves."""
    groups = (
        {"pattern": "*.o_proj.*", "learning_rate_ratio": 0.5},
        {"pattern": "*.attention.*", "weight_decay_ratio": 0.0},
        {"pattern": "*_norm.weight", "weight_decay_ratio": 2.0},
    )
    owners = parameters()
    before = {name: parameter.detach().clone() for name, parameter in owners.items()}
    for parameter in owners.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer_of(owners, kind(groups=groups)).step()
    left = {"o_proj": 1 - RATE * 0.15, "q_b_proj": 1.0, "norm": 1 - RATE * 0.6, "bias": 1.0}
    for name, parameter in owners.items():
        share = next((value for key, value in left.items() if key in name), 1 - RATE * 0.3)
        torch.testing.assert_close(parameter.detach(), before[name] * share, rtol=1e-6, atol=0)


def test_what_adamw_updates_is_a_choice() -> None:
    owners = parameters()
    names = optimizer_of(owners, muon(adamw_for=("*.o_proj.*",))).tensors().keys()
    assert {name for name in names if name.startswith("momentum/")} == {
        f"momentum/{name}"
        for name in SHAPES
        if name.endswith(("weight", "gate_proj")) and "norm" not in name and "o_proj" not in name
    }


def test_weight_decay_is_scheduled() -> None:
    decay = ScheduledNumber.model_validate(
        {"value": 0.5, "schedule": {"type": "piecewise", "pieces": [{"steps": 1, "ratio": 1}], "final_ratio": 0}}
    )
    owners = parameters()
    config = AdamWConfig(learning_rate=RATE, weight_decay=decay)
    with pytest.raises(TypeError, match="piecewise"):
        unscheduled(decay)
    seen: list[float] = []
    around = Surroundings(
        learning_rate=lambda _step: RATE,
        sum_over_ranks=lambda tensor: tensor,
        after_update=lambda: None,
        is_fused=True,
        now=lambda _number: 0.5 if not seen else 0.0,
    )
    optimizer = Optimizer(owners, config, around)
    start = owners["head.weight"].detach().clone()
    for share in (1 - RATE * 0.5, 1.0):
        for parameter in owners.values():
            parameter.grad = torch.zeros_like(parameter)
        before = owners["head.weight"].detach().clone()
        optimizer.step()
        seen.append(share)
        torch.testing.assert_close(owners["head.weight"].detach(), before * share)
    assert not torch.equal(start, owners["head.weight"])
