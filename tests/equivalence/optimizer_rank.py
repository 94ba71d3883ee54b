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
from firstlight.config.averages import AveragesConfig, EmaConfig, PmaConfig
from firstlight.config.norm_limit import MedianNormLimit
from firstlight.config.optimizer import AdamWConfig, MuonConfig, OptimizerSection
from firstlight.launch.parent import die_with
from firstlight.layout.mesh import Layout
from firstlight.optim.averages import Averages
from firstlight.optim.optimizer import Optimizer, Progress, Surroundings
from firstlight.parallel.apply import Keeping, buffer_names, build_parallel, copies_in, parameter_names
from firstlight.parallel.group import sum_over_ranks
from tests.unit.models.tiny_model import deepseek

STEPS, MIDDLE = 50, 25
SPIKES = range(7, STEPS, 6)
"""Steps whose gradients are a hundred times as large, for optimizers that skip such."""
TIMEOUT = timedelta(seconds=120)
MODEL = deepseek(num_hidden_layers=2, initializer_range=0.1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An optimizer in a layout."""

    kind: str
    layout: Layout
    is_slow: bool

    @property
    def skips(self) -> bool:
        """Whether steps with spikes are left out."""
        return OPTIMIZERS[self.kind].skip_above is not None


OPTIMIZERS: Mapping[str, OptimizerSection] = {
    "adamw": AdamWConfig(learning_rate=0.01, max_grad_norm=0.5),
    "muon": MuonConfig(learning_rate=0.01, max_grad_norm=None),
    "heads": MuonConfig(
        learning_rate=0.01, max_grad_norm=0.5, newton_schulz_precision="full", splits_heads=True, moments="bf16"
    ),
    "guarded": AdamWConfig(
        learning_rate=0.01,
        max_grad_norm=None,
        max_grad_value=1.5,
        skip_above=MedianNormLimit(ratio=2, window=9, after_steps=4),
    ),
}
AVERAGES: Mapping[str, AveragesConfig] = {
    "guarded": AveragesConfig(ema=EmaConfig(decay=0.9), pma=PmaConfig(interval_steps=4, count=3))
}
"""Of the kinds that have any."""
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
_QUICK = ("muon_dp2", "adamw_tp2", "guarded_ep2")
CASES: Mapping[str, Case] = {
    name: Case(kind=kind, layout=LAYOUTS[layout], is_slow=name not in _QUICK)
    for kind in OPTIMIZERS
    for layout in LAYOUTS
    for name in (f"{kind}_{layout}",)
}


def give_gradients(owners: Mapping[str, nn.Parameter], step: int, size: float = 1.0) -> None:
    """This rank's blocks of gradients that follow from their names and the step."""
    for name, parameter in owners.items():
        generator = torch.Generator().manual_seed(crc32(name.encode()) + step)
        whole = torch.randn(parameter.shape, generator=generator) * size
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


@dataclass(frozen=True, kw_only=True)
class Started:
    """The parameters of the model in the layout, their optimizer and averages."""

    owners: dict[str, nn.Parameter]
    optimizer: Optimizer
    averages: Averages

    def tensors(self) -> dict[str, Tensor]:
        """All that is saved of them."""
        weights = {name: parameter.detach() for name, parameter in self.owners.items()}
        return {**weights, **self.optimizer.tensors(), **self.averages.tensors()}

    def blocks(self) -> dict[str, Tensor]:
        """Parameters and averages."""
        return {**{name: parameter.detach() for name, parameter in self.owners.items()}, **self.averages.tensors()}


def started(case: Case) -> Started:
    """At the beginning."""
    model = build_parallel(MODEL, case.layout, Keeping(), device=torch.device("cpu"), seed=5)
    owners, progress = parameter_names(*model.stages), Progress()
    config = AVERAGES.get(case.kind, AveragesConfig())
    averages = Averages(config, owners, buffer_names(*model.stages), lambda: progress.updates)
    around = Surroundings(
        learning_rate=lambda step: 0.01 / (step + 1),
        sum_over_ranks=sum_over_ranks,
        after_update=averages.update,
        progress=progress,
        is_fused=True,
        copies=copies_in(case.layout),
        num_heads=MODEL.attention.num_attention_heads,
    )
    return Started(owners=owners, optimizer=Optimizer(owners, OPTIMIZERS[case.kind], around), averages=averages)


def take(run: Started, steps: range, *, skips: bool) -> None:
    for step in steps:
        is_spike = skips and step in SPIKES
        give_gradients(run.owners, step, 100.0 if is_spike else 1.0)
        assert run.optimizer.step().applied is not is_spike


@torch.no_grad()
def resumed(case: Case, before: Started) -> Started:
    """A fresh start, given the state there is, after the other half of the steps."""
    fresh = started(case)
    live = fresh.tensors()
    for name, tensor in before.tensors().items():
        live[name].copy_(tensor)
    fresh.optimizer.load_state_dict(before.optimizer.state_dict())
    take(fresh, range(MIDDLE, STEPS), skips=case.skips)
    return fresh


def run(name: str, folder: Path, rank: int) -> None:
    """Save `NAME-RANK.safetensors` (blocks) and `.json` (where they lie)."""
    case = CASES[name]
    through = started(case)
    take(through, range(MIDDLE), skips=case.skips)
    fresh = resumed(case, through)
    take(through, range(MIDDLE, STEPS), skips=case.skips)
    shards = {key: local_shard(tensor, is_first_rank=True) for key, tensor in through.blocks().items()}
    for key, tensor in fresh.blocks().items():
        assert torch.equal(local_shard(tensor, is_first_rank=True).data, shards[key].data), key
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
