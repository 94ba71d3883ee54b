"""What each stage of sharding communicates and lets go of, on one rank of a group whose collectives do nothing."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from firstlight.config.training import Sharded
from firstlight.data.stream import Batch
from firstlight.layout.mesh import Layout
from firstlight.models.balancing import BiasBalancing
from firstlight.models.decoder import Decoder
from firstlight.parallel.apply import Keeping, build_parallel
from firstlight.parallel.engine import PlainEngine, Work
from firstlight.parallel.losses import RankSums
from tests.unit.models.tiny_model import deepseek, llama

MICRO_BATCHES = 3
CONFIG = llama(num_hidden_layers=4)
UNITS = 4 + 1
"""The layers, and the root with embedding, last norm and head."""
GATHER, SCATTER, REDUCE = "c10d::_allgather_base_", "c10d::_reduce_scatter_base_", "c10d::allreduce_"


class Collectives(TorchDispatchMode):
    """Counts collectives of process groups."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _group() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    dist.destroy_process_group()


def engine_of(layout: Layout) -> tuple[Decoder, PlainEngine]:
    (model,) = build_parallel(CONFIG, layout, Keeping(), device=torch.device("cpu"), seed=1).stages
    sums = RankSums(layout=layout, over_ranks=lambda tensor: tensor)
    work = Work(micro_batch_size=1, sums=sums, balancing=BiasBalancing({}))
    return model, PlainEngine(model, work)


def batch() -> Batch:
    tokens = np.zeros((MICRO_BATCHES, 9), dtype=np.int64)
    mask = np.ones((MICRO_BATCHES, 8), dtype=np.float32)
    return Batch(tokens=tokens[:, :-1], labels=tokens[:, 1:], loss_mask=mask, begins=mask > 1, samples=MICRO_BATCHES)


def collectives_of_a_step(layout: Layout) -> Counter[str]:
    _, engine = engine_of(layout)
    with Collectives() as collectives:
        engine.forward_backward(batch())
    return collectives.counts


@pytest.mark.parametrize(
    ("sharded", "gathers", "scatters"),
    [
        # Layers are gathered forward and backward, the root once for both.
        ("all", MICRO_BATCHES * (2 * (UNITS - 1) + 1), MICRO_BATCHES * UNITS),
        ("optimizer+gradients", UNITS, MICRO_BATCHES * UNITS),
        ("optimizer", UNITS, UNITS),
    ],
)
def test_a_stage_communicates_what_it_must(sharded: Sharded, gathers: int, scatters: int) -> None:
    counts = collectives_of_a_step(Layout(dp_shard=4, sharded=sharded))
    assert (counts[GATHER], counts[SCATTER], counts[REDUCE]) == (gathers, scatters, 0)
    replicated = collectives_of_a_step(Layout(dp_replicate=2, dp_shard=2, sharded=sharded))
    assert (replicated[GATHER], replicated[SCATTER], replicated[REDUCE]) == (gathers, scatters, UNITS)


@pytest.mark.parametrize("sharded", ["all", "optimizer+gradients", "optimizer"])
def test_nothing_stays_gathered_when_the_shards_may_change(sharded: Sharded) -> None:
    model, engine = engine_of(Layout(dp_shard=4, sharded=sharded))
    engine.evaluate(batch())
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    engine.forward_backward(batch())
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("experts", "layout", "dimension"),
    [
        (8, Layout(dp_shard=4), 0),
        (6, Layout(dp_shard=4), 1),
        (2, Layout(dp_shard=4), 1),
        (6, Layout(dp_shard=4, ep=2), 1),
        (8, Layout(dp_shard=4, ep=2), 0),
        (2, Layout(dp_replicate=2, dp_shard=2), 0),
        (3, Layout(dp_replicate=2, dp_shard=2), 1),
        (8, Layout(dp_shard=4, etp=2), 0),
        (3, Layout(dp_shard=4, etp=2), 1),
    ],
)
def test_every_rank_has_its_part_of_the_experts(experts: int, layout: Layout, dimension: int) -> None:
    config = deepseek(feed_forward={"n_routed_experts": experts}, router={"n_group": 1, "topk_group": 1})
    (model,) = build_parallel(config, layout, Keeping(), device=torch.device("cpu"), seed=1).stages
    found: list[nn.Parameter] = [p for name, p in model.named_parameters() if ".experts." in name]
    assert found
    for parameter in found:
        assert isinstance(parameter, DTensor)
        sharding = parameter.placements[parameter.device_mesh.mesh_dim_names.index(_axis(layout))]
        assert isinstance(sharding, Shard | _StridedShard)
        assert sharding.dim == dimension
        ranks = layout.dp_shard
        assert parameter.to_local().numel() == parameter.numel() // ranks


def _axis(layout: Layout) -> str:
    return "edp" if layout.ep * layout.etp > 1 else "shard"
