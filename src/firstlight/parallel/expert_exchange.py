"""Brings rows to the ranks that hold their experts, and the results back.

Shapes: n rows of this rank sorted by expert, r ranks of the group, l experts of each rank, m rows that arrive, d width.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single, wait_tensor

from firstlight.models.moe import ExpertRun, Experts
from firstlight.ops.experts import Assignment, Segments
from firstlight.parallel.rows_in_flight import RowsInFlight


class ExpertExchange:
    """An all-to-all to the experts and one back, of as many rows as the router chose: none is padded or dropped.

    `run` is what becomes of the rows where they arrive.
    """

    def __init__(self, group: dist.ProcessGroup, run: ExpertRun) -> None:
        self._group = group
        self._run = run

    def __call__(self, experts: Experts, rows_nd: Tensor, segments: Segments) -> Callable[[], Tensor]:
        """As `run_here`, with the experts of the group's first rank first. The results are on their way back then."""
        ranks = self._group.size()
        sent_rl = segments.counts_e.view(ranks, -1)
        # Functional, as all collectives inside of layers: recomputation can keep what such a one returns.
        arriving_rl = wait_tensor(all_to_all_single(sent_rl, None, None, self._group))
        # The sizes of buffers: one wait for the device in each direction's stead.
        sent, arriving = sent_rl.sum(1).tolist(), arriving_rl.sum(1).tolist()
        rows_md = RowsInFlight.begun(self._group, rows_nd, sent=sent, arriving=arriving).arrived()
        here = by_expert(arriving_rl)
        out_md = here.restore(self._run(experts, here.dispatch(rows_md), here)())
        return RowsInFlight.begun(self._group, out_md, sent=arriving, arriving=sent).arrived


def by_expert(counts_rl: Tensor) -> Assignment:
    """The order by expert of rows [m] that are sorted by expert within those of each rank."""
    ranks, experts = counts_rl.shape
    numbers = torch.arange(experts, device=counts_rl.device).repeat(ranks)
    return Assignment(numbers.repeat_interleave(counts_rl.flatten()).unsqueeze(1), experts)
