"""An all-to-all of rows that is begun at one place and ended at another, forward and backward alike.

torch's functional all-to-all begins its backward at the place where the forward began, and its first use, which follows
at once, waits. Here the place of the wait begins the way back, and the place of the beginning ends it: what is computed
between the two runs while rows travel, in both directions.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Sizes = list[int]


class RowsInFlight:
    """Rows [n, d] under way to the ranks of `group`: `sent` to each of them, `arriving` from each."""

    def __init__(self, group: dist.ProcessGroup, *, sent: Sizes, arriving: Sizes) -> None:
        self._group = group
        self._sent, self._arriving = sent, arriving
        self._under_way: tuple[Tensor, Tensor] | None = None
        self._rows: Tensor | None = None

    @classmethod
    def begun(cls, group: dist.ProcessGroup, rows_nd: Tensor, *, sent: Sizes, arriving: Sizes) -> "RowsInFlight":
        """Send `rows_nd` on their way."""
        flight = cls(group, sent=sent, arriving=arriving)
        flight._rows = _Begin.apply(rows_nd, flight)  # type: ignore[no-untyped-call]
        return flight

    def arrived(self) -> Tensor:
        """Wait for the rows that come here, those of the group's first rank first. Called once."""
        rows: Tensor = _End.apply(self._rows, self)  # type: ignore[no-untyped-call]
        self._rows = None
        return rows

    def begin(self, rows_nd: Tensor, *, is_way_back: bool) -> Tensor:
        """The buffer that rows will be in after `wait`."""
        sent, arriving = (self._arriving, self._sent) if is_way_back else (self._sent, self._arriving)
        rows_nd = rows_nd.contiguous()
        # Functional, as all collectives inside of layers: recomputation can keep what such a one returns.
        buffer: Tensor = torch.ops._c10d_functional.all_to_all_single(rows_nd, arriving, sent, self._group.group_name)
        # What is sent must not be freed before it is gone.
        self._under_way = rows_nd, buffer
        return buffer

    def wait(self) -> Tensor:
        """The buffer that `begin` gave last, filled."""
        assert self._under_way is not None, "the ends of a flight come in turn"
        _, buffer = self._under_way
        self._under_way = None
        out: Tensor = torch.ops._c10d_functional.wait_tensor(buffer)
        return out


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_nd: Tensor, flight: RowsInFlight) -> Tensor:
        ctx.flight = flight
        return flight.begin(rows_nd, is_way_back=False)

    @staticmethod
    def backward(ctx: Any, _token: Tensor) -> tuple[Tensor, None]:
        return ctx.flight.wait(), None


class _End(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_nd: Tensor, flight: RowsInFlight) -> Tensor:
        ctx.flight = flight
        flight.wait()
        return rows_nd.view_as(rows_nd)

    @staticmethod
    def backward(ctx: Any, grad_nd: Tensor) -> tuple[Tensor, None]:
        # The gradient that is under way has another shape than the rows that came: this one stands for it.
        ctx.flight.begin(grad_nd, is_way_back=True)
        return grad_nd, None
