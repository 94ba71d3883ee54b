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
from firstlight.parallel.rows_in_flight import RowsInFlight, Sizes

RowCounts = Callable[[Tensor, int], Sizes]
"""How many of so many rows go to each rank, or come from it, by their counts [r, l]."""


class ExpertExchange:
    """An all-to-all to the experts and one back, of as many rows as the router chose: none is padded or dropped.

    `run` is what becomes of the rows where they arrive.
    """

    def __init__(self, group: dist.ProcessGroup, run: ExpertRun) -> None:
        self._group = group
        self.run = run
        self.sizes_of: RowCounts = counted
        """A dry run, whose counts have no values, has its own."""

    def __call__(self, experts: Experts, rows_nd: Tensor, segments: Segments) -> Callable[[], Tensor]:
        """As `run_here`, with the experts of the group's first rank first. The results are on their way back then."""
        ranks = self._group.size()
        sent_rl = segments.counts_e.view(ranks, -1)
        # Functional, as all collectives inside of layers: recomputation can keep what such a one returns.
        arriving_rl = wait_tensor(all_to_all_single(sent_rl, None, None, self._group))
        num_rows = rows_nd.shape[0]
        sent, arriving = self.sizes_of(sent_rl, num_rows), self.sizes_of(arriving_rl, num_rows)
        rows_md = RowsInFlight.begun(self._group, rows_nd, sent=sent, arriving=arriving).arrived()
        here = by_expert(arriving_rl, sum(arriving))
        out_md = here.restore(self.run(experts, here.dispatch(rows_md), here)())
        return RowsInFlight.begun(self._group, out_md, sent=arriving, arriving=sent).arrived


def counted(counts_rl: Tensor, _num_rows: int, /) -> Sizes:
    """The sizes of buffers: a wait for the device."""
    sizes: Sizes = counts_rl.sum(1).tolist()
    return sizes


def evenly(counts_rl: Tensor, num_rows: int, /) -> Sizes:
    """As if `num_rows` were spread evenly over the ranks, whatever the counts."""
    ranks = counts_rl.shape[0]
    return [num_rows // ranks + (rank < num_rows % ranks) for rank in range(ranks)]


def by_expert(counts_rl: Tensor, num_rows: int) -> Assignment:
    """The order by expert of `num_rows` rows that are sorted by expert within those of each rank."""
    ranks, experts = counts_rl.shape
    numbers = torch.arange(experts, device=counts_rl.device).repeat(ranks)
    spread = numbers.repeat_interleave(counts_rl.flatten(), output_size=num_rows)
    return Assignment(spread.unsqueeze(1), experts)
