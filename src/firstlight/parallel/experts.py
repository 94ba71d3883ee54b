"""Deals routed experts out over ranks, and cuts each of them over neighbours."""

from collections.abc import Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, Shard

from firstlight.models.moe import ExpertRun, MixtureOfExperts, run_here
from firstlight.models.sharding import EXPERT_SLICES
from firstlight.parallel.expert_exchange import ExpertExchange
from firstlight.parallel.expert_slices import ExpertSlices
from firstlight.parallel.local_parameters import Views, distribute


def place_experts(mixture: MixtureOfExperts, mesh: DeviceMesh) -> None:
    """Give each rank of `mesh` an equal share of the mixture's experts, along its axis `ep`, and of their inner width,
    along its axis `etp`. It has one of these axes or both, in this order."""
    axes = mesh.mesh_dim_names or ()
    names = [name for name, _ in mixture.experts.named_parameters()]
    placements = {name: [_placements(name)[axis] for axis in axes] for name in names}
    run: ExpertRun = run_here
    views: Views = {}
    if "etp" in axes:
        slices = mesh["etp"]
        run = ExpertSlices(slices.get_group())
        views = {"down_bias": partial(_among_zeros, place=slices.get_local_rank(), ranks=slices.size())}
    if "ep" in axes:
        run = ExpertExchange(mesh["ep"].get_group(), run)
    distribute(mixture.experts, mesh, placements, views=views)
    mixture.run_experts = run


def _placements(name: str) -> Mapping[str, Placement]:
    return {"ep": Shard(0), "etp": Shard(EXPERT_SLICES[name])}


def _among_zeros(block: Tensor, *, place: int, ranks: int) -> Tensor:
    """`block` as the columns of number `place` among those of all ranks, which are zero here."""
    width = block.shape[-1]
    return F.pad(block, (place * width, (ranks - 1 - place) * width))
