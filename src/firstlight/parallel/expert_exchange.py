"""Brings rows to the ranks that hold their experts, and the results back.

Shapes: n rows of this rank sorted by expert, r ranks of the group, l experts of each rank, m rows that arrive, d width.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single, wait_tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard

from firstlight.models.moe import Experts, MixtureOfExperts
from firstlight.ops.experts import Assignment, Segments
from firstlight.parallel.local_parameters import distribute
from firstlight.parallel.rows_in_flight import RowsInFlight


class ExpertExchange:
    """An all-to-all to the experts and one back, of as many rows as the router chose: none is padded or dropped."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def __call__(self, experts: Experts, rows_nd: Tensor, segments: Segments) -> Callable[[], Tensor]:
        """As `run_here`, with the experts of the group's first rank first. The results are on their way back then."""
        ranks = self._group.size()
        sent_rl = segments.counts_e.view(ranks, -1)
        # Functional, as all collectives inside of layers: recomputation can keep what such a one returns.
        arriving_rl = wait_tensor(all_to_all_single(sent_rl, None, None, self._group))
        # The sizes of buffers: one wait for the device in each direction's stead.
        sent, arriving = sent_rl.sum(1).tolist(), arriving_rl.sum(1).tolist()
        rows_md = RowsInFlight.begun(self._group, rows_nd, sent=sent, arriving=arriving).arrived()
        here = Assignment(_experts_of(arriving_rl).unsqueeze(1), arriving_rl.shape[1])
        out_md = here.restore(experts(here.dispatch(rows_md), here))
        return RowsInFlight.begun(self._group, out_md, sent=arriving, arriving=sent).arrived


def place_experts(mixture: MixtureOfExperts, mesh: DeviceMesh) -> None:
    """Give each rank of `mesh` (one axis) an equal share of the mixture's experts."""
    shares = dict.fromkeys((name for name, _ in mixture.experts.named_parameters()), Shard(0))
    distribute(mixture.experts, mesh, shares)
    mixture.run_experts = ExpertExchange(mesh.get_group())


def _experts_of(counts_rl: Tensor) -> Tensor:
    """The local expert of each row that arrives [m]: sorted by expert within the rows of one rank."""
    ranks, experts = counts_rl.shape
    numbers = torch.arange(experts, device=counts_rl.device).repeat(ranks)
    return numbers.repeat_interleave(counts_rl.flatten())
