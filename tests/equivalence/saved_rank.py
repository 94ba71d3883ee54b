"""One rank of a measurement: bytes that the forward pass of a model keeps for the backward pass, in several layouts.

Run as `python -m tests.equivalence.saved_rank FOLDER RANK WORLD_SIZE LAYOUT...`, a layout as JSON.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore

from firstlight.launch.parent import die_with
from firstlight.layout.mesh import Layout
from firstlight.parallel.apply import Keeping, build_parallel
from tests.equivalence.rank import TIMEOUT
from tests.unit.models.tiny_model import llama, random_tokens

ROWS, LENGTH = 2, 512


def saved_bytes(layout: Layout) -> int:
    """What one micro-batch keeps, each storage counted once, weights left out: they are gathered whole either way."""
    config = llama(max_position_embeddings=LENGTH)
    (model,) = build_parallel(config, layout, Keeping(), device=torch.device("cpu"), seed=0).stages
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = random_tokens(ROWS, LENGTH + 1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(tokens[:, :-1], tokens[:, 1:], torch.ones(ROWS, LENGTH)).lm
    loss.backward()
    return sum(kept.values())


def main(folder: Path, rank: int, size: int, layouts: list[str]) -> None:
    """Join the other ranks, measure, part. Ends with the test that started it."""
    die_with(os.getppid())
    torch.set_num_threads(1)
    store = FileStore(str(folder / "ranks"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    measured = [saved_bytes(Layout(**json.loads(layout))) for layout in layouts]
    (folder / f"{rank}.json").write_text(json.dumps(measured))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
