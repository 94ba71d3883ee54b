"""One rank that counts the calls of a step, and compares them with the arithmetic of `layout/`.

Run as `python -m tests.equivalence.counted FOLDER RANK WORLD_SIZE CASE...`; rank 0 saves what it finds to CASE.json.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from firstlight.config.averages import AveragesConfig, EmaConfig, PmaConfig
from firstlight.config.model import ModelConfig
from firstlight.config.optimizer import AdamWConfig, MuonConfig
from firstlight.config.pipeline import SPLITS_BACKWARD, GivenSplit, PipelineConfig, ScheduleName
from firstlight.config.recompute import FullRecompute, LayerRange, NoRecompute
from firstlight.data.stream import Batch
from firstlight.launch.parent import die_with
from firstlight.layout.communication import step_traffic
from firstlight.layout.memory import Kept, state_of_rank
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import Stage, stages_of, stages_on
from firstlight.layout.traffic import StepShape
from firstlight.models.balancing import BiasBalancing
from firstlight.optim.averages import Averages
from firstlight.optim.optimizer import Optimizer, Surroundings
from firstlight.parallel.apply import (
    Keeping,
    LaidOut,
    buffer_names,
    build_parallel,
    copies_in,
    parameter_names,
    routers,
)
from firstlight.parallel.calls import Counted
from firstlight.parallel.group import sum_over_ranks
from tests.equivalence.rank import TIMEOUT, engine_of
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, of_family

LENGTH = 16
KEPT: Mapping[str, Kept] = {
    "adamw": Kept(optimizer=AdamWConfig(learning_rate=0.01)),
    "adamw_bf16_ema": Kept(
        optimizer=AdamWConfig(learning_rate=0.01, moments="bf16"), averages=AveragesConfig(ema=EmaConfig())
    ),
    "muon": Kept(optimizer=MuonConfig(learning_rate=0.01)),
    "muon_for_less_bf16_both_averages": Kept(
        optimizer=MuonConfig(learning_rate=0.01, moments="bf16", adamw_for=("*.attention.*", "embedding.*")),
        averages=AveragesConfig(ema=EmaConfig(), pma=PmaConfig()),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model in a layout, with micro-batches of two sequences."""

    model: ModelConfig
    layout: Layout
    micro_batches: int = 2
    dtype: torch.dtype = torch.float32
    pipeline: PipelineConfig = PipelineConfig()
    recompute: NoRecompute | FullRecompute = NoRecompute()
    is_slow: bool = False

    def stages_on(self, rank: int) -> list[Stage]:
        """Those of the pipeline that a rank has."""
        stages = stages_of(self.model, self.pipeline, self.layout.pp, LENGTH)
        place = self.layout.coordinates(rank)["pp"]
        return [stages[index] for index in stages_on(place, self.layout.pp, self.pipeline)]


_BALANCED = {"force_balance": "round_robin"}
DEEPSEEK = deepseek(multi_token_prediction={}, router=_BALANCED)

_GPT_OSS = OTHER_FAMILIES["gpt_oss"]["feed_forward"]
BALANCED_GPT_OSS = of_family("gpt_oss", feed_forward={**_GPT_OSS, "router": {**_GPT_OSS["router"], **_BALANCED}})
FEW_EXPERTS = deepseek(router={**_BALANCED, "n_group": 1, "topk_group": 1}, feed_forward={"n_routed_experts": 2})
TIED = llama(tie_word_embeddings=True)
GPT_OSS, GLM4 = of_family("gpt_oss"), of_family("glm4")


def _pipelined(
    layout: Layout, schedule: ScheduleName = "1f1b", *, model: ModelConfig = DEEPSEEK, is_slow: bool = False
) -> Case:
    """With four micro-batches, as many as the schedules ask for; each stage has a layer, the last one may have none."""
    stages = layout.pp * PipelineConfig(schedule=schedule).num_stages_per_rank
    whole, more = divmod(model.num_hidden_layers, stages)
    split = GivenSplit(layers=tuple(whole + (index < more) for index in range(stages)))
    pipeline = PipelineConfig(schedule=schedule, split=split)
    return Case(model=model, layout=layout, pipeline=pipeline, micro_batches=4, is_slow=is_slow)


_ONE_AXIS: Mapping[str, Case] = {
    "few_experts": Case(model=FEW_EXPERTS, layout=Layout(dp_shard=4)),
    "few_experts_tp2": Case(model=FEW_EXPERTS, layout=Layout(dp_shard=2, tp=2)),
    "dp2": Case(model=DEEPSEEK, layout=Layout(dp_shard=2)),
    "replicated": Case(model=DEEPSEEK, layout=Layout(dp_replicate=2, dp_shard=1)),
    "ep2": Case(model=DEEPSEEK, layout=Layout(dp_shard=2, ep=2)),
    "tp2": Case(model=DEEPSEEK, layout=Layout(tp=2)),
    "tp2_ep2": Case(model=DEEPSEEK, layout=Layout(tp=2, ep=2), micro_batches=1),
    "tp2_fp64": Case(model=DEEPSEEK, layout=Layout(tp=2), dtype=torch.float64),
    "tp2_tied": Case(model=TIED, layout=Layout(tp=2)),
    "tp2_gpt_oss": Case(model=GPT_OSS, layout=Layout(tp=2)),
    "tp2_glm4": Case(model=GLM4, layout=Layout(tp=2)),
    "dp4_ep2": Case(model=DEEPSEEK, layout=Layout(dp_shard=4, ep=2)),
    "tp2_dp2_ep4": Case(model=DEEPSEEK, layout=Layout(tp=2, dp_shard=2, ep=4)),
    "tp2_dp2": Case(model=DEEPSEEK, layout=Layout(tp=2, dp_shard=2)),
    "replicated_ep2": Case(model=DEEPSEEK, layout=Layout(dp_replicate=2, dp_shard=2, ep=2)),
    "etp2": Case(model=DEEPSEEK, layout=Layout(dp_shard=2, etp=2)),
    "dp4_ep2_etp2_gpt_oss": Case(model=BALANCED_GPT_OSS, layout=Layout(dp_shard=4, ep=2, etp=2)),
    "tp2_dp2_etp2": Case(model=DEEPSEEK, layout=Layout(tp=2, dp_shard=2, etp=2)),
    "dp3": Case(model=DEEPSEEK, layout=Layout(dp_shard=3)),
}
"""In dp3 little divides: shards are padded, and some of them empty."""

_SHARDED: Mapping[str, Case] = {
    "dp2_optimizer": Case(model=DEEPSEEK, layout=Layout(dp_shard=2, sharded="optimizer"), micro_batches=3),
    "dp2_gradients": Case(model=DEEPSEEK, layout=Layout(dp_shard=2, sharded="optimizer+gradients"), micro_batches=3),
    "replicated_ep2_optimizer": Case(
        model=DEEPSEEK, layout=Layout(dp_replicate=2, dp_shard=2, ep=2, sharded="optimizer"), is_slow=True
    ),
    "dp4_ep2_gradients": Case(
        model=DEEPSEEK, layout=Layout(dp_shard=4, ep=2, sharded="optimizer+gradients"), is_slow=True
    ),
}
_CONTEXT: Mapping[str, Case] = {
    "cp2_ring": Case(model=DEEPSEEK, layout=Layout(cp=2)),
    "cp2_all_to_all": Case(model=DEEPSEEK, layout=Layout(cp=2, cp_heads=2)),
    "cp2_ring_fp64": Case(model=DEEPSEEK, layout=Layout(cp=2), dtype=torch.float64, is_slow=True),
    "cp2_ring_gpt_oss": Case(model=GPT_OSS, layout=Layout(cp=2), is_slow=True),
    "cp2_ep2": Case(model=DEEPSEEK, layout=Layout(cp=2, ep=2), is_slow=True),
    "cp4_mixed": Case(model=DEEPSEEK, layout=Layout(cp=4, cp_heads=2), is_slow=True),
    "cp4_all_to_all_gpt_oss": Case(model=GPT_OSS, layout=Layout(cp=4, cp_heads=4), is_slow=True),
    "cp2_ring_tp2": Case(model=DEEPSEEK, layout=Layout(cp=2, tp=2), is_slow=True),
    "cp2_all_to_all_tp2_ep4": Case(model=DEEPSEEK, layout=Layout(cp=2, cp_heads=2, tp=2, ep=4), is_slow=True),
    "cp2_ring_dp2_ep2": Case(model=DEEPSEEK, layout=Layout(cp=2, dp_shard=2, ep=2), is_slow=True),
}
_PIPELINED: Mapping[str, Case] = {
    "pp2": _pipelined(Layout(pp=2)),
    "pp2_zbv": _pipelined(Layout(pp=2), "zbv_zero_bubble"),
    "pp2_interleaved": _pipelined(Layout(pp=2), "interleaved_1f1b", is_slow=True),
    "pp2_tied": _pipelined(Layout(pp=2), "gpipe", model=TIED, is_slow=True),
    "pp2_dualpipe": _pipelined(Layout(pp=2), "dualpipe_v", is_slow=True),
    "pp4": _pipelined(Layout(pp=4), is_slow=True),
    "pp2_dp2": _pipelined(Layout(pp=2, dp_shard=2), is_slow=True),
    "pp2_dp2_zbv": _pipelined(Layout(pp=2, dp_shard=2), "zbv_zero_bubble", is_slow=True),
    "pp2_dp2_looped": _pipelined(Layout(pp=2, dp_shard=2), "looped_bfs", is_slow=True),
    "pp2_dp2_optimizer": _pipelined(Layout(pp=2, dp_shard=2, sharded="optimizer"), "dualpipe_v", is_slow=True),
    "pp2_replicated": _pipelined(Layout(pp=2, dp_replicate=2), is_slow=True),
    "pp2_dp2_ep2": _pipelined(Layout(pp=2, dp_shard=2, ep=2), is_slow=True),
    "pp2_tp2": _pipelined(Layout(pp=2, tp=2), is_slow=True),
    "pp2_tp2_tied": _pipelined(Layout(pp=2, tp=2), model=TIED, is_slow=True),
    "pp2_cp2": _pipelined(Layout(pp=2, cp=2), "zbv_zero_bubble", is_slow=True),
}
_KEPT = FullRecompute(communication="kept")
_RECOMPUTED: Mapping[str, Case] = {
    "tp2_ep2_recomputed": Case(model=DEEPSEEK, layout=Layout(tp=2, ep=2), recompute=FullRecompute()),
    "cp2_recomputed": Case(model=DEEPSEEK, layout=Layout(cp=2), recompute=FullRecompute(), is_slow=True),
    "cp2_all_to_all_recomputed": Case(
        model=DEEPSEEK,
        layout=Layout(cp=2, cp_heads=2),
        recompute=FullRecompute(layers=LayerRange(first=1, last=2)),
        is_slow=True,
    ),
    "cp2_recomputed_kept": Case(model=DEEPSEEK, layout=Layout(cp=2, ep=2), recompute=_KEPT, is_slow=True),
    "tp2_recomputed_kept": Case(model=DEEPSEEK, layout=Layout(tp=2, ep=2), recompute=_KEPT, is_slow=True),
    "tp2_glm4_recomputed": Case(model=GLM4, layout=Layout(tp=2), recompute=FullRecompute(), is_slow=True),
    "tp2_tied_recomputed": Case(model=TIED, layout=Layout(tp=2), recompute=FullRecompute(), is_slow=True),
    "dp4_ep2_recomputed": Case(
        model=DEEPSEEK, layout=Layout(dp_shard=4, ep=2), recompute=FullRecompute(), is_slow=True
    ),
}
CASES: Mapping[str, Case] = {**_ONE_AXIS, **_SHARDED, **_CONTEXT, **_PIPELINED, **_RECOMPUTED}


def batch(rank: int, rows: int) -> Batch:
    """Random tokens, all of which count."""
    tokens = np.random.default_rng(rank).integers(0, 96, (rows, LENGTH + 1))
    mask = np.ones((rows, LENGTH), dtype=np.float32)
    return Batch(tokens=tokens[:, :-1], labels=tokens[:, 1:], loss_mask=mask, begins=mask > 1, samples=rows)


def run(name: str, folder: Path, rank: int) -> None:
    """Two steps of the case, of which the second is counted."""
    case = CASES[name]
    torch.set_default_dtype(case.dtype)
    layout, stages = case.layout, case.stages_on(rank)
    model = _built(case, stages)
    balancing = BiasBalancing(routers(*model.stages))
    engine = engine_of(layout, case.pipeline, model, balancing)
    around = Surroundings(
        learning_rate=lambda _step: 0.01,
        sum_over_ranks=sum_over_ranks,
        after_update=balancing.update,
        is_fused=True,
        copies=copies_in(layout),
    )
    optimizer = Optimizer(parameter_names(*model.stages), KEPT["adamw"].optimizer, around)
    rows = batch(layout.data_rank(rank), 2 * case.micro_batches)
    parameters = [one for stage in model.stages for one in stage.parameters()]
    for _ in range(2):
        with Counted() as counted:
            engine.forward_backward(rows)
            gradients = sum(_bytes(one.grad) for one in parameters if one.grad is not None)
            optimizer.step()
    held = {"parameters": sum(_bytes(one) for one in parameters), "gradients": gradients}
    of_kinds = {name: {**held, **_kept(kept, model, around)} for name, kept in KEPT.items()}
    states = {
        name: vars(state_of_rank(case.model, layout, rank, stages, kept=kept, number_bytes=case.dtype.itemsize))
        for name, kept in KEPT.items()
    }
    found = {f"{kind} {list(ranks)}": list(total) for (kind, ranks), total in counted.totals().items()}
    facts = {"found": found, "expected": expected_calls(case, rank), "held": of_kinds, "state": states}
    (folder / f"{name}-{rank}.json").write_text(json.dumps(facts))


def _kept(kept: Kept, model: LaidOut, around: Surroundings) -> dict[str, int]:
    """What an optimizer and averages of the parameters here hold."""
    parameters = parameter_names(*model.stages)
    averages = Averages(kept.averages, parameters, buffer_names(*model.stages), lambda: 0)
    made = {"moments": Optimizer(parameters, kept.optimizer, around).tensors(), "averages": averages.tensors()}
    return {kind: sum(_bytes(one) for one in tensors.values()) for kind, tensors in made.items()}


def _built(case: Case, stages: list[Stage]) -> LaidOut:
    splits = case.layout.pp > 1 and case.pipeline.schedule in SPLITS_BACKWARD
    keeping = Keeping(recompute=case.recompute, splits_backward=splits)
    return build_parallel(case.model, case.layout, keeping, stages=stages, device=torch.device("cpu"), seed=5)


def expected_calls(case: Case, rank: int) -> dict[str, list[int]]:
    """Calls and bytes of each kind on each group of `rank`, as the arithmetic has them; axes may share a group. It is
    for the first rank of a stage."""
    step = StepShape(
        sequence_length=LENGTH,
        micro_batch_size=2,
        micro_batches=case.micro_batches,
        number_bytes=case.dtype.itemsize,
        sum_bytes=8,
    )
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for traffic in step_traffic(case.model, case.layout, step, case.stages_on(rank), case.recompute):
        ranks = range(case.layout.world_size)
        if traffic.axis != "world":
            ranks = case.layout.group(traffic.axis, rank)
        key = f"{traffic.kind} {list(ranks)}"
        counts[key] += traffic.calls
        sizes[key] += traffic.bytes
    return {key: [counts[key], sizes[key]] for key in counts}


def _bytes(tensor: torch.Tensor) -> int:
    local: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return local.numel() * local.element_size()


def main(folder: Path, rank: int, size: int, names: list[str]) -> None:
    """Join the other ranks, run the cases, part. Ends with the test that started it."""
    die_with(os.getppid())
    torch.set_num_threads(1)
    for name in names:
        # Groups of an earlier case would leave their threads behind.
        store = FileStore(str(folder / f"{name}.ranks"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        run(name, folder, rank)
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
