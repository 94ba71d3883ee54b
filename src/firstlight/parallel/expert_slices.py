"""Runs experts of which each rank of a group has a part: a slice of their inner width.

Shapes: n rows of this rank sorted by expert, r ranks of the group, l experts, m rows of all ranks, d width.
"""

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_single, wait_tensor

from firstlight.models.moe import Experts
from firstlight.ops.experts import Segments
from firstlight.parallel.expert_exchange import RowCounts, by_expert, counted
from firstlight.parallel.rows_in_flight import RowsInFlight


class ExpertSlices:
    """Every rank gets the rows of all of them and gives its part of each result back to the row's own rank, where the
    parts are summed: an all-gather and a reduce-scatter of as many rows as each rank has, by all-to-all.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.sizes_of: RowCounts = counted
        """As that of `ExpertExchange`."""

    def __call__(self, experts: Experts, rows_nd: Tensor, segments: Segments) -> Callable[[], Tensor]:
        """As `run_here`. The parts of the results are on their way back then."""
        ranks = self._group.size()
        counts_rl = wait_tensor(all_gather_single(segments.counts_e, 0, self._group)).view(ranks, -1)
        sent, arriving = [rows_nd.shape[0]] * ranks, self.sizes_of(counts_rl, ranks * rows_nd.shape[0])
        rows_md = RowsInFlight.begun(self._group, rows_nd.repeat(ranks, 1), sent=sent, arriving=arriving).arrived()
        here = by_expert(counts_rl, sum(arriving))
        part_md = here.restore(experts(here.dispatch(rows_md), here))
        flight = RowsInFlight.begun(self._group, part_md, sent=arriving, arriving=sent)
        return lambda: flight.arrived().view(ranks, *rows_nd.shape).sum(0)
