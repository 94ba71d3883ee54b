"""One rank of a real run, measured as a dry run measures.

Run as `python -m tests.equivalence.dry_rank FOLDER RANK WORLD_SIZE CASE...`; each rank saves CASE-RANK.json.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from firstlight.checkpoint.disk import LocalDisk
from firstlight.checkpoint.snapshot import HostBuffers, written_shards
from firstlight.checkpoint.writer import STAGING_PREFIX, CheckpointWriter
from firstlight.launch.parent import die_with
from firstlight.layout.mesh import Layout
from firstlight.parallel.apply import build_parallel
from firstlight.parallel.arithmetic import Arithmetic
from firstlight.parallel.pretended import PRETENDED
from firstlight.train.assemble import keeping_of, stages_of_rank
from firstlight.train.dry_run import Built, state_tensors, with_optimizer
from firstlight.train.dry_step import step_of
from tests.equivalence.dry_runs import CASES, DryCase
from tests.equivalence.rank import TIMEOUT


def run(case: DryCase, name: str, folder: Path, rank: int) -> None:
    """A step of the case, and a checkpoint after it."""
    config = case.config
    layout = Layout.of(config.parallelism, case.ranks)
    model = build_parallel(
        config.model,
        layout,
        keeping_of(config, layout),
        stages=stages_of_rank(config, layout, rank),
        device=PRETENDED,
        seed=5,
        arithmetic=Arithmetic.of(config.training.precision, PRETENDED),
    )
    built: Built = with_optimizer(config, layout, model)
    step = step_of(config, built, rank)
    writer = CheckpointWriter(folder / f"{name}-{rank}", rank=rank, num_ranks=case.ranks, disk=LocalDisk())
    writer.prepare("step", 0)
    shards = HostBuffers().copy(written_shards(state_tensors(built), is_first_rank=layout.is_first_of_stage(rank)))
    writer.write_part("step", shards)
    files = (folder / f"{name}-{rank}" / f"{STAGING_PREFIX}step").glob("*.safetensors")
    shapes = {tensor: [list(shard.data.shape), list(shard.offset)] for tensor, shard in shards.items()}
    facts = {"step": asdict(step), "files": {one.name: one.stat().st_size for one in files}, "shapes": shapes}
    (folder / f"{name}-{rank}.json").write_text(json.dumps(facts))


def main(folder: Path, rank: int, size: int, names: list[str]) -> None:
    """Join the other ranks, run the cases, part. Ends with the test that started it."""
    die_with(os.getppid())
    torch.set_num_threads(1)
    for name in names:
        store = FileStore(str(folder / f"{name}.ranks"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        run(CASES[name], name, folder, rank)
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
