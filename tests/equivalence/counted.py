"""One rank that counts the collectives of a step, and compares them with the arithmetic of `layout/`.

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

from firstlight.config.model import ModelConfig
from firstlight.config.optimizer import AdamWConfig
from firstlight.data.stream import Batch
from firstlight.launch.parent import die_with
from firstlight.layout.communication import StepShape, step_traffic
from firstlight.layout.memory import state_of_rank
from firstlight.layout.mesh import Layout
from firstlight.models.balancing import BiasBalancing
from firstlight.optim.optimizer import Optimizer, Surroundings
from firstlight.parallel.apply import Keeping, build_parallel, copies_in, parameter_names, routers
from firstlight.parallel.engine import PlainEngine, Work
from firstlight.parallel.group import sum_over_ranks
from firstlight.parallel.losses import RankSums
from tests.equivalence.collectives import Counted
from tests.equivalence.rank import TIMEOUT
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, of_family

LENGTH = 16


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model in a layout, with micro-batches of two sequences."""

    model: ModelConfig
    layout: Layout
    micro_batches: int = 2
    dtype: torch.dtype = torch.float32


_BALANCED = {"force_balance": "round_robin"}
DEEPSEEK = deepseek(multi_token_prediction={}, router=_BALANCED)

_GPT_OSS = OTHER_FAMILIES["gpt_oss"]["feed_forward"]
BALANCED_GPT_OSS = of_family("gpt_oss", feed_forward={**_GPT_OSS, "router": {**_GPT_OSS["router"], **_BALANCED}})
FEW_EXPERTS = deepseek(router={**_BALANCED, "n_group": 1, "topk_group": 1}, feed_forward={"n_routed_experts": 2})

CASES: Mapping[str, Case] = {
    "few_experts": Case(model=FEW_EXPERTS, layout=Layout(dp_shard=4)),
    "few_experts_tp2": Case(model=FEW_EXPERTS, layout=Layout(dp_shard=2, tp=2)),
    "dp2": Case(model=DEEPSEEK, layout=Layout(dp_shard=2)),
    "replicated": Case(model=DEEPSEEK, layout=Layout(dp_replicate=2, dp_shard=1)),
    "ep2": Case(model=DEEPSEEK, layout=Layout(dp_shard=2, ep=2)),
    "tp2": Case(model=DEEPSEEK, layout=Layout(tp=2)),
    "tp2_ep2": Case(model=DEEPSEEK, layout=Layout(tp=2, ep=2), micro_batches=1),
    "tp2_fp64": Case(model=DEEPSEEK, layout=Layout(tp=2), dtype=torch.float64),
    "tp2_tied": Case(model=llama(tie_word_embeddings=True), layout=Layout(tp=2)),
    "tp2_gpt_oss": Case(model=of_family("gpt_oss"), layout=Layout(tp=2)),
    "tp2_glm4": Case(model=of_family("glm4"), layout=Layout(tp=2)),
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


def batch(rank: int, rows: int) -> Batch:
    """Random tokens, all of which count."""
    tokens = np.random.default_rng(rank).integers(0, 96, (rows, LENGTH + 1))
    mask = np.ones((rows, LENGTH), dtype=np.float32)
    return Batch(tokens=tokens[:, :-1], labels=tokens[:, 1:], loss_mask=mask, begins=mask > 1, samples=rows)


def run(name: str, folder: Path, rank: int) -> None:
    """Two steps of the case, of which the second is counted."""
    case = CASES[name]
    torch.set_default_dtype(case.dtype)
    layout = case.layout
    (model,) = build_parallel(case.model, layout, Keeping(), device=torch.device("cpu"), seed=5).stages
    balancing = BiasBalancing(routers(model))
    work = Work(micro_batch_size=2, autocast_dtype=None, sums=RankSums(layout=layout), balancing=balancing)
    engine = PlainEngine(model, work)
    around = Surroundings(
        learning_rate=lambda _step: 0.01,
        sum_over_ranks=sum_over_ranks,
        after_update=balancing.update,
        is_fused=True,
        copies=copies_in(layout),
    )
    optimizer = Optimizer(parameter_names(model), AdamWConfig(learning_rate=0.01), around)
    rows = batch(layout.data_rank(rank), 2 * case.micro_batches)
    for _ in range(2):
        with Counted() as counted:
            engine.forward_backward(rows)
            gradients = sum(_bytes(one.grad) for one in model.parameters() if one.grad is not None)
            optimizer.step()
    expected = state_of_rank(case.model, layout, rank, number_bytes=case.dtype.itemsize)
    held = {
        "parameters": sum(_bytes(one) for one in model.parameters()),
        "gradients": gradients,
        "moments": sum(_bytes(one) for one in optimizer.tensors().values()),
    }
    found = {f"{kind} {list(ranks)}": list(total) for (kind, ranks), total in counted.totals().items()}
    facts = {"found": found, "expected": expected_calls(case), "held": held, "state": vars(expected)}
    (folder / f"{name}-{rank}.json").write_text(json.dumps(facts))


def expected_calls(case: Case) -> dict[str, list[int]]:
    """Calls and bytes of each kind on each group of rank 0, as the arithmetic has them; axes may share a group."""
    step = StepShape(
        sequence_length=LENGTH,
        micro_batch_size=2,
        micro_batches=case.micro_batches,
        number_bytes=case.dtype.itemsize,
        sum_bytes=8,
    )
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for traffic in step_traffic(case.model, case.layout, step):
        ranks = range(case.layout.world_size)
        if traffic.axis != "world":
            ranks = case.layout.group_of_first_rank(traffic.axis)
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
    store = FileStore(str(folder / "ranks"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    for name in names:
        run(name, folder, rank)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
