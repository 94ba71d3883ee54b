"""One rank of a comparison of optimizers: fifty updates by given gradients for each case, its blocks saved to a file.

Run as `python -m tests.equivalence.optimizer_rank FOLDER RANK WORLD_SIZE CASE...`.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from zlib import crc32

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore
from torch.distributed.tensor import DTensor

from firstlight.checkpoint.shards import local_shard
from firstlight.config.optimizer import AdamWConfig, MuonConfig, OptimizerSection
from firstlight.launch.parent import die_with
from firstlight.layout.mesh import Layout
from firstlight.optim.optimizer import Optimizer, Surroundings
from firstlight.parallel.apply import Keeping, build_parallel, copies_in, parameter_names
from firstlight.parallel.group import sum_over_ranks
from tests.unit.models.tiny_model import deepseek

STEPS, MIDDLE = 50, 25
TIMEOUT = timedelta(seconds=120)
MODEL = deepseek(num_hidden_layers=2, initializer_range=0.1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An optimizer in a layout."""

    kind: str
    layout: Layout
    is_slow: bool


OPTIMIZERS: Mapping[str, OptimizerSection] = {
    "adamw": AdamWConfig(learning_rate=0.01, max_grad_norm=0.5),
    "muon": MuonConfig(learning_rate=0.01, max_grad_norm=None),
    "heads": MuonConfig(
        learning_rate=0.01, max_grad_norm=0.5, newton_schulz_precision="full", splits_heads=True, moments="bf16"
    ),
}
LAYOUTS: Mapping[str, Layout] = {
    "alone": Layout(),
    "dp2": Layout(dp_shard=2),
    "replicated2": Layout(dp_replicate=2, dp_shard=1),
    "tp2": Layout(tp=2),
    "ep2": Layout(dp_shard=2, ep=2),
    "dp4": Layout(dp_shard=4),
    "tp2_dp2": Layout(tp=2, dp_shard=2),
    "ep2_edp2": Layout(dp_shard=4, ep=2),
    "tp2_dp2_ep2": Layout(tp=2, dp_shard=2, ep=2),
    "replicated2_dp2": Layout(dp_replicate=2, dp_shard=2),
}
_QUICK = ("muon_dp2", "adamw_tp2")
CASES: Mapping[str, Case] = {
    name: Case(kind=kind, layout=LAYOUTS[layout], is_slow=name not in _QUICK)
    for kind in OPTIMIZERS
    for layout in LAYOUTS
    for name in (f"{kind}_{layout}",)
}


def give_gradients(owners: Mapping[str, nn.Parameter], step: int) -> None:
    """This rank's blocks of gradients that follow from their names and the step."""
    for name, parameter in owners.items():
        generator = torch.Generator().manual_seed(crc32(name.encode()) + step)
        whole = torch.randn(parameter.shape, generator=generator)
        shard = local_shard(parameter, is_first_rank=True)
        where = tuple(slice(o, o + n) for o, n in zip(shard.offset, shard.data.shape, strict=True))
        block = whole[where].contiguous()
        parameter.grad = _like(block, parameter)


def _like(block: Tensor, parameter: nn.Parameter) -> Tensor:
    if not isinstance(parameter, DTensor):
        return block
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(
        block, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )


def started(case: Case) -> tuple[dict[str, nn.Parameter], Optimizer]:
    """The parameters of the model in the layout, and their optimizer."""
    model = build_parallel(MODEL, case.layout, Keeping(), device=torch.device("cpu"), seed=5)
    owners = parameter_names(*model.stages)
    around = Surroundings(
        learning_rate=lambda step: 0.01 / (step + 1),
        sum_over_ranks=sum_over_ranks,
        after_update=lambda: None,
        is_fused=True,
        copies=copies_in(case.layout),
        num_heads=MODEL.attention.num_attention_heads,
    )
    return owners, Optimizer(owners, OPTIMIZERS[case.kind], around)


def take(owners: Mapping[str, nn.Parameter], optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        give_gradients(owners, step)
        assert optimizer.step().applied


@torch.no_grad()
def resumed(case: Case, owners: Mapping[str, nn.Parameter], optimizer: Optimizer) -> dict[str, nn.Parameter]:
    """Fresh parameters and optimizer, given the state there is, after the other half of the steps."""
    fresh, again = started(case)
    moments = again.tensors()
    for name, tensor in (dict(owners) | optimizer.tensors()).items():
        (dict(fresh) | moments)[name].copy_(tensor)
    again.load_state_dict(optimizer.state_dict())
    take(fresh, again, range(MIDDLE, STEPS))
    return fresh


def run(name: str, folder: Path, rank: int) -> None:
    """Save `NAME-RANK.safetensors` (blocks) and `.json` (where they lie)."""
    case = CASES[name]
    owners, optimizer = started(case)
    take(owners, optimizer, range(MIDDLE))
    fresh = resumed(case, owners, optimizer)
    take(owners, optimizer, range(MIDDLE, STEPS))
    shards = {key: local_shard(parameter.detach(), is_first_rank=True) for key, parameter in owners.items()}
    for key, parameter in fresh.items():
        assert torch.equal(local_shard(parameter.detach(), is_first_rank=True).data, shards[key].data), key
    save_file({key: shard.data.clone() for key, shard in shards.items()}, folder / f"{name}-{rank}.safetensors")
    offsets = {key: list(shard.offset) for key, shard in shards.items()}
    (folder / f"{name}-{rank}.json").write_text(json.dumps(offsets))


def main(folder: Path, rank: int, size: int, names: list[str]) -> None:
    """Join the other ranks, run the cases, part. Ends with the test that started it."""
    die_with(os.getppid())
    torch.set_num_threads(1)
    for name in names:
        if size > 1:
            store = FileStore(str(folder / f"{name}.ranks"), size)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        run(name, folder, rank)
        if size > 1:
            dist.barrier()
            dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
