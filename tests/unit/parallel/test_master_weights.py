"""bf16 parameters under fp32 master weights, against a plain loop that keeps both by hand."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from firstlight.config.optimizer import AdamWConfig
from firstlight.config.precision import Bf16Precision
from firstlight.layout.mesh import Layout
from firstlight.models.balancing import BiasBalancing
from firstlight.models.decoder import Decoder
from firstlight.models.family import family_of
from firstlight.models.initialization import initial_slice
from firstlight.optim.optimizer import Optimizer, Surroundings
from firstlight.parallel.apply import Keeping, build_parallel, parameter_names, routers
from firstlight.parallel.arithmetic import Arithmetic
from firstlight.parallel.engine import PlainEngine, Work
from firstlight.parallel.losses import Normalizers, RankSums, weigh
from firstlight.parallel.rows import Rows
from tests.equivalence.rank import MICRO_BATCH, ROWS, batch
from tests.unit.models.tiny_model import deepseek

pytestmark = pytest.mark.slow

RATE, SEED = 1e-3, 5
CPU = torch.device("cpu")
MODEL = deepseek(initializer_range=0.1)


@pytest.fixture
def group() -> Iterator[None]:
    """One process alone, as `joined` has it."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def by_the_run(steps: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Master weights and losses of the engine and the optimizer that a run has."""
    arithmetic, layout = Arithmetic.of(Bf16Precision(parameters="bf16"), CPU), Layout()
    model = build_parallel(MODEL, layout, Keeping(), device=CPU, seed=SEED, arithmetic=arithmetic)
    balancing = BiasBalancing(routers(*model.stages))
    sums = RankSums(layout=layout)
    engine = PlainEngine(
        model.stages[0],
        Work(micro_batch_size=MICRO_BATCH, arithmetic=arithmetic, sums=sums, balancing=balancing),
    )
    around = Surroundings(
        learning_rate=lambda _step: RATE,
        sum_over_ranks=lambda tensor: tensor,
        after_update=lambda: None,
        is_fused=True,
    )
    owners = parameter_names(*model.stages)
    optimizer = Optimizer(owners, AdamWConfig(learning_rate=RATE, weight_decay=0.0, max_grad_norm=None), around)
    losses = []
    for step in range(steps):
        losses.append(engine.forward_backward(batch(step, data_rank=0, data_size=1)).total)
        assert optimizer.step().applied
    return {name: parameter.detach().full_tensor().clone() for name, parameter in owners.items()}, losses  # type: ignore[attr-defined]


def by_hand(steps: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """A bf16 copy of fp32 weights computes, its gradients of each micro-batch are summed in fp64 and rounded once."""
    model = family_of(MODEL).build(MODEL)
    assert isinstance(model, Decoder)
    for buffer in model.buffers():
        buffer.zero_()
    masters = {
        name: torch.nn.Parameter(
            initial_slice(name, p.shape, slice(None), std=MODEL.initializer_range, seed=SEED).float()
        )
        for name, p in model.named_parameters()
    }
    adamw = torch.optim.AdamW(masters.values(), lr=RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    losses = []
    for step in range(steps):
        for name, parameter in model.named_parameters():
            parameter.data.copy_(masters[name].detach())
        rows = Rows.of(batch(step, data_rank=0, data_size=1), CPU)
        normalizers = Normalizers.of(rows, RankSums(layout=Layout()), depths=0)
        sums = {name: torch.zeros_like(master, dtype=torch.float64) for name, master in masters.items()}
        total = 0.0
        for part in rows.micro_batches(MICRO_BATCH):
            with torch.autocast("cpu", torch.bfloat16):
                out = model(part.tokens, part.labels, part.mask, part.begins)
            loss = weigh(out, normalizers, MODEL)
            loss.backward()
            total += float(loss.detach())
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                assert parameter.grad.dtype == torch.bfloat16
                sums[name] += parameter.grad
                parameter.grad = None
        for name, master in masters.items():
            master.grad = sums[name].float()
        adamw.step()
        losses.append(total)
    return {name: master.detach() for name, master in masters.items()}, losses


@pytest.mark.parametrize("steps", [8, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("group")
def test_steps_are_those_of_a_loop_by_hand(steps: int):
    assert ROWS // MICRO_BATCH > 2
    expected, expected_losses = by_hand(steps)
    found, losses = by_the_run(steps)
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    # Smaller updates than bf16 has digits for: the weights are not those of a bf16 copy.
    assert any(not torch.equal(value, value.bfloat16().float()) for value in found.values())
