"""One of two ranks that share the experts of one mixture, and the order of what it does in a forward and backward pass.

Run as `python -m tests.equivalence.overlap FOLDER RANK WORLD_SIZE NAME`; saves NAME-RANK.json.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode

from firstlight.config.model import MoeFeedForward
from firstlight.launch.parent import die_with
from firstlight.models.moe import MixtureOfExperts
from firstlight.parallel.experts import place_experts
from firstlight.parallel.rows_in_flight import RowsInFlight
from tests.equivalence.rank import TIMEOUT
from tests.unit.models.tiny_model import deepseek

SHARED_WIDTH = 112
"""Of the shared expert alone: its products are known by it."""


class Events(TorchDispatchMode):
    """`begin` and `wait` of an all-to-all of rows, `shared` and `expert` for a product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        real = RowsInFlight.wait

        def wait(flight: RowsInFlight) -> Tensor:
            self.seen.append("wait")
            return real(flight)

        RowsInFlight.wait = wait

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if name == "_c10d_functional::all_to_all_single" and args[0].is_floating_point():
            self.seen.append("begin")
        if name in ("aten::mm", "aten::addmm", "aten::_grouped_mm"):
            tensors = [argument for argument in args if isinstance(argument, Tensor)]
            is_shared = any(SHARED_WIDTH in tensor.shape for tensor in tensors)
            is_routed = any(tensor.ndim == 3 for tensor in tensors)
            self.seen += ["shared"] if is_shared else ["expert"] if is_routed else []
        return func(*args, **(kwargs or {}))


def run() -> dict[str, list[str]]:
    """The events of both passes."""
    config = deepseek(feed_forward={"n_shared_experts": SHARED_WIDTH // 16}).feed_forward
    assert isinstance(config, MoeFeedForward)
    mixture = MixtureOfExperts(32, config)
    for parameter in mixture.parameters():
        torch.nn.init.normal_(parameter)
    place_experts(mixture, init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",)))
    hidden_bsd = torch.randn(2, 16, 32, requires_grad=True)
    with Events() as forward:
        out, _ = mixture(hidden_bsd)
        before = len(forward.seen)
        out.square().sum().backward()
    return {"forward": forward.seen[:before], "backward": forward.seen[before:]}


def main(folder: Path, rank: int, size: int, names: list[str]) -> None:
    """Join the other rank, run, part."""
    die_with(os.getppid())
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    store = FileStore(str(folder / "ranks"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    (folder / f"{names[0]}-{rank}.json").write_text(json.dumps(run()))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
