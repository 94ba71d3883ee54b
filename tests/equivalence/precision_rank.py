"""One rank of a comparison of layouts in reduced precision: some steps of each case, blocks and losses saved.

Run as `python -m tests.equivalence.precision_rank FOLDER RANK WORLD_SIZE CASE...`.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch._C._distributed_c10d import FileStore

from firstlight.checkpoint.shards import local_shard
from firstlight.config.model import ModelConfig
from firstlight.config.optimizer import AdamWConfig
from firstlight.config.pipeline import PipelineConfig
from firstlight.config.precision import Bf16Precision, Fp8Precision, Precision
from firstlight.config.recompute import FullRecompute, NoRecompute, Recompute, SelectiveRecompute
from firstlight.launch.parent import die_with
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import stages_of, stages_on
from firstlight.models.balancing import BiasBalancing
from firstlight.optim.optimizer import Optimizer, Surroundings
from firstlight.parallel.apply import Keeping, build_parallel, copies_in, parameter_names, routers
from firstlight.parallel.arithmetic import Arithmetic
from firstlight.parallel.engine import Engine, PlainEngine, Work
from firstlight.parallel.group import sum_over_ranks
from firstlight.parallel.losses import RankSums
from firstlight.parallel.pipelined_engine import PipelinedEngine
from tests.equivalence.rank import LENGTH, MICRO_BATCH, TIMEOUT, batch, forget_meshes
from tests.unit.models.tiny_model import deepseek, llama

STEPS = 3
MODELS: Mapping[str, ModelConfig] = {
    "deepseek": deepseek(initializer_range=0.1, router={"bias_update_rate": 0.01}),
    "wide": llama(
        hidden_size=160,
        initializer_range=0.1,
        attention={"head_dim": 128},
        feed_forward={"kind": "dense", "intermediate_size": 512},
    ),
}
"""Tensor groups of two cut all widths of the second one between tiles."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model in a precision and a layout. Without autocast all that is not of 8 bits is in fp32."""

    model: str
    precision: Precision
    layout: Layout = field(default_factory=Layout)
    recompute: Recompute = NoRecompute()
    pipeline: PipelineConfig = PipelineConfig()
    has_autocast: bool = True


_MASTER, _EIGHT = Bf16Precision(parameters="bf16"), Fp8Precision()
_ZBV = PipelineConfig(schedule="zbv_zero_bubble")
CASES: Mapping[str, Case] = {
    "master_alone": Case(model="deepseek", precision=_MASTER),
    "master_dp2": Case(model="deepseek", precision=_MASTER, layout=Layout(dp_shard=2)),
    "master_replicated2": Case(model="deepseek", precision=_MASTER, layout=Layout(dp_replicate=2)),
    "master_zero1": Case(model="deepseek", precision=_MASTER, layout=Layout(dp_shard=2, sharded="optimizer")),
    "master_ep2": Case(model="deepseek", precision=_MASTER, layout=Layout(dp_shard=2, ep=2)),
    "master_pp2": Case(model="deepseek", precision=_MASTER, layout=Layout(pp=2)),
    "fp8_alone": Case(model="deepseek", precision=_EIGHT),
    "fp8_recomputed": Case(model="deepseek", precision=_EIGHT, recompute=FullRecompute()),
    "fp8_selective": Case(model="deepseek", precision=_EIGHT, recompute=SelectiveRecompute()),
    "fp8_dp2": Case(model="deepseek", precision=_EIGHT, layout=Layout(dp_shard=2)),
    "fp8_ep2": Case(model="deepseek", precision=_EIGHT, layout=Layout(dp_shard=2, ep=2)),
    "fp8_pp2_zbv": Case(model="deepseek", precision=_EIGHT, layout=Layout(pp=2), pipeline=_ZBV),
    "wide_alone": Case(model="wide", precision=_EIGHT, has_autocast=False),
    "wide_tp2": Case(model="wide", precision=_EIGHT, layout=Layout(tp=2), has_autocast=False),
}


def run(name: str, folder: Path, rank: int) -> None:
    """Save `NAME-RANK.safetensors` (blocks of gradients and parameters) and `.json` (where they lie, losses)."""
    case, device = CASES[name], torch.device("cpu")
    config, layout, arithmetic = MODELS[case.model], case.layout, Arithmetic.of(case.precision, device)
    if not case.has_autocast:
        arithmetic = replace(arithmetic, product_dtype=None)
    stages = stages_of(config, case.pipeline, layout.pp, LENGTH)
    mine = [stages[index] for index in stages_on(layout.coordinates(rank)["pp"], layout.pp, case.pipeline)]
    keeping = Keeping(recompute=case.recompute, splits_backward=case.pipeline is _ZBV)
    model = build_parallel(config, layout, keeping, stages=mine, device=device, seed=5, arithmetic=arithmetic)
    balancing = BiasBalancing(routers(*model.stages))
    work = Work(micro_batch_size=MICRO_BATCH, arithmetic=arithmetic, sums=RankSums(layout=layout), balancing=balancing)
    engine: Engine = PlainEngine(model.stages[0], work)
    if model.pipeline_group is not None:
        engine = PipelinedEngine(model, case.pipeline.schedule, work)
    owners = parameter_names(*model.stages)
    around = Surroundings(
        learning_rate=lambda _step: 0.001,
        sum_over_ranks=sum_over_ranks,
        after_update=balancing.update,
        is_fused=True,
        copies=copies_in(layout),
    )
    optimizer = Optimizer(owners, AdamWConfig(learning_rate=0.001, max_grad_norm=None), around)
    blocks, offsets, losses = {}, {}, []
    for step in range(STEPS):
        given = batch(step, data_rank=layout.data_rank(rank), data_size=layout.data_size)
        losses.append(engine.forward_backward(given).total)
        for key, parameter in owners.items():
            assert parameter.grad is not None, key
            assert parameter.dtype == parameter.grad.dtype == torch.float32, key
            for kind, tensor in (("gradient", parameter.grad), ("parameter", parameter.detach())):
                shard = local_shard(tensor, is_first_rank=True)
                blocks[f"{kind}/{step}/{key}"] = shard.data.clone()
                offsets[f"{kind}/{step}/{key}"] = list(shard.offset)
        assert optimizer.step().applied
    save_file(blocks, folder / f"{name}-{rank}.safetensors")
    (folder / f"{name}-{rank}.json").write_text(json.dumps({"offsets": offsets, "losses": losses}))


def main(folder: Path, rank: int, size: int, names: list[str]) -> None:
    """Join the other ranks, run the cases, part. Ends with the test that started it."""
    die_with(os.getppid())
    torch.set_num_threads(1)
    for name in names:
        store = FileStore(str(folder / f"{name}.ranks"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        run(name, folder, rank)
        dist.barrier()
        dist.destroy_process_group()
        forget_meshes()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
