"""One rank of a comparison of layouts: three optimizer steps of each case, what it holds saved to files.

Run as `python -m tests.equivalence.rank FOLDER RANK WORLD_SIZE CASE...`.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore
from torch.distributed.tensor._redistribute import _gen_transform_infos
from torch.distributed.tensor.debug import _clear_sharding_prop_cache

from firstlight.checkpoint.shards import local_shard
from firstlight.config.optimizer import AdamWConfig
from firstlight.config.optimizer import QkClip as QkClipConfig
from firstlight.config.pipeline import SPLITS_BACKWARD, PipelineConfig
from firstlight.data.stream import Batch
from firstlight.launch.parent import die_with
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import stages_of, stages_on
from firstlight.models.balancing import BiasBalancing
from firstlight.models.router import Routed, TopKRouter
from firstlight.optim.optimizer import Optimizer, Surroundings
from firstlight.optim.qk_clip import QkClip
from firstlight.parallel.apply import Keeping, LaidOut, build_parallel, copies_in, parameter_names, routers
from firstlight.parallel.attention_logits import AttentionLogits
from firstlight.parallel.engine import Engine, PlainEngine, Work
from firstlight.parallel.group import sum_over_ranks
from firstlight.parallel.losses import RankSums
from firstlight.parallel.pipelined_engine import PipelinedEngine
from tests.equivalence.layouts import CASES, CLIPPED, MODELS, PACKED, Case

STEPS, ROWS, LENGTH, MICRO_BATCH = 3, 8, 16, 2
TIMEOUT = timedelta(seconds=180)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where files go, and which rank this is."""

    folder: Path
    rank: int


def batch(step: int, *, data_rank: int, data_size: int, is_packed: bool = False) -> Batch:
    """This rank's rows of a global batch whose mask leaves each row another number of targets.

    Packed, each row is several documents that stand for themselves, a few as short as one token.
    """
    source = np.random.default_rng(step)
    tokens = source.integers(0, 96, (ROWS, LENGTH + 1))
    mask = (source.random((ROWS, LENGTH)) < 0.8).astype(np.float32)
    share = ROWS // data_size
    mine = slice(data_rank * share, (data_rank + 1) * share)
    begins = source.random((ROWS, LENGTH + 1)) < (0.25 if is_packed else 0)
    mask[begins[:, 1:]] = 0
    tokens, mask, begins = tokens[mine], mask[mine], begins[mine, :-1]
    return Batch(tokens=tokens[:, :-1], labels=tokens[:, 1:], loss_mask=mask, begins=begins, samples=ROWS)


def engine_of(
    layout: Layout,
    pipeline: PipelineConfig,
    model: LaidOut,
    balancing: BiasBalancing,
    logits: AttentionLogits | None = None,
) -> Engine:
    """As a run has it."""
    work = Work(micro_batch_size=MICRO_BATCH, sums=RankSums(layout=layout), balancing=balancing, logits=logits)
    if model.pipeline_group is None:
        return PlainEngine(model.stages[0], work)
    return PipelinedEngine(model, pipeline.schedule, work)


def after_update(
    case: Case, model: LaidOut, balancing: BiasBalancing, logits: AttentionLogits | None
) -> Callable[[], None]:
    """As a run has it: the biases move, and heads are clipped where the case does that."""
    if logits is None:
        return balancing.update
    config = QkClipConfig(threshold=CLIPPED[case.model])
    clip = QkClip(parameter_names(*model.stages), MODELS[case.model].attention, config, lambda: logits.largest)

    def act() -> None:
        balancing.update()
        clip()

    return act


def observed_choices(router: TopKRouter) -> list[Tensor]:
    """Grows by the chosen experts [t, k] of each micro-batch that the router sees for the first time."""
    choices: list[Tensor] = []

    def observe(_module: nn.Module, _inputs: object, routed: Routed) -> None:
        is_recomputed = torch._C._current_graph_task_id() != -1
        if not is_recomputed:
            choices.append(routed.experts_tk)

    router.register_forward_hook(observe)
    return choices


def run(name: str, case: Case, place: Place) -> None:
    """Train the case and save `NAME-RANK.safetensors` (blocks) and `.json` (where they lie, figures of each step)."""
    config, layout = MODELS[case.model], case.layout
    keeping = Keeping(
        recompute=case.recompute,
        offloaded=case.offload.activations,
        splits_backward=layout.pp > 1 and case.pipeline.schedule in SPLITS_BACKWARD,
    )
    stages = stages_of(config, case.pipeline, layout.pp, LENGTH)
    mine = [stages[index] for index in stages_on(layout.coordinates(place.rank)["pp"], layout.pp, case.pipeline)]
    model = build_parallel(config, layout, keeping, stages=mine, device=torch.device("cpu"), seed=5)
    balancing = BiasBalancing(routers(*model.stages))
    logits = AttentionLogits(model.stages, layout, place.rank) if case.model in CLIPPED else None
    engine = engine_of(layout, case.pipeline, model, balancing, logits)
    around = Surroundings(
        learning_rate=lambda _step: case.learning_rate,
        sum_over_ranks=sum_over_ranks,
        after_update=after_update(case, model, balancing, logits),
        is_fused=True,
        keeps_moments_in_host=case.offload.optimizer_state == "host",
        copies=copies_in(layout),
    )
    optimizer = Optimizer(
        parameter_names(*model.stages), AdamWConfig(learning_rate=case.learning_rate, max_grad_norm=0.5), around
    )
    choices = {key: observed_choices(router) for key, router in routers(*model.stages).items()}
    blocks: dict[str, Tensor] = {}
    offsets: dict[str, Any] = {}
    figures: list[dict[str, Any]] = []
    for step in range(STEPS):
        for chosen in choices.values():
            chosen.clear()
        report = engine.forward_backward(
            batch(
                step,
                data_rank=layout.data_rank(place.rank),
                data_size=layout.data_size,
                is_packed=case.model in PACKED.values(),
            )
        )
        for key, parameter in parameter_names(*model.stages).items():
            assert parameter.grad is not None, key
            for kind, tensor in (("gradient", parameter.grad), ("parameter", parameter.detach())):
                shard = local_shard(tensor, is_first_rank=True)
                blocks[f"{kind}/{step}/{key}"] = shard.data.clone()
                offsets[f"{kind}/{step}/{key}"] = shard.offset
        for key, chosen in choices.items():
            blocks[f"choice/{step}/{key}"] = torch.stack(chosen)
        update = optimizer.step()
        largest = {f"logit {name}": value for name, value in report.attention_logits.items()}
        figures.append(
            {"loss": report.total, **report.parts, **report.expert_load, **largest, "grad_norm": update.grad_norm}
        )
    for key, router in routers(*model.stages).items():
        if router.bias is not None:
            blocks[f"bias/{key}"] = router.bias.clone()
    save_file(blocks, place.folder / f"{name}-{place.rank}.safetensors")
    (place.folder / f"{name}-{place.rank}.json").write_text(json.dumps({"offsets": offsets, "figures": figures}))


def forget_meshes() -> None:
    """torch remembers plans by the shape of a mesh, and with them the names of its groups, which are gone."""
    _clear_sharding_prop_cache()
    _gen_transform_infos.cache_clear()


def main(folder: Path, rank: int, size: int, names: list[str]) -> None:
    """Join the other ranks, run the cases, part. Ends with the test that started it."""
    die_with(os.getppid())
    torch.set_num_threads(1)
    for name in names:
        torch.set_default_dtype(CASES[name].dtype)
        # Groups of an earlier case would leave their threads behind.
        if size > 1:
            store = FileStore(str(folder / f"{name}.ranks"), size)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        run(name, CASES[name], Place(folder=folder, rank=rank))
        if size > 1:
            dist.barrier()
            dist.destroy_process_group()
            forget_meshes()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
