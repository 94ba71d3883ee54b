"""Rows of tokens cut from the sequences of an indexed data set, laid end to end in some order."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data import native
from firstlight.data.indexed import IndexedDataset
from firstlight.data.samples import Samples

_NO_ORDER = np.empty(0, np.int32)
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Laid:
    """Sequences of `indexed` laid end to end: those of `order`, int32 or int64 [P], or those numbered `order`."""

    indexed: IndexedDataset
    order: NDArray[Any] | range

    def gather(
        self, starts: NDArray[np.int64], out: Samples, rows: NDArray[np.int64], num_wanted: int | None = None
    ) -> None:
        """Fill row `rows[i]` of `out` with the tokens from (position in the order, token offset) `starts[i]` on.

        `starts` int64 [n, 2]. A row has `num_wanted` tokens, its whole width by default, or fewer where the order
        ends; each part of a sequence begins a document. Raises InputError when an id does not fit 32 bits or the
        files have changed under the map.
        """
        num_wanted = out.tokens.shape[1] if num_wanted is None else num_wanted
        try:
            if native.GATHER:
                self._gather_compiled(native.GATHER, starts, out, rows, num_wanted)
            else:
                gather_with_numpy(self, starts, out, rows, num_wanted)
        except (IndexError, OverflowError) as error:
            raise InputError(f"{self.indexed.prefix}: {error}; prepare the data set again") from None

    def _gather_compiled(
        self,
        compiled: Any,
        starts: NDArray[np.int64],
        out: Samples,
        rows: NDArray[np.int64],
        num_wanted: int,
    ) -> None:
        indexed, order = self.indexed, self.order
        ids, first = (_NO_ORDER, order.start) if isinstance(order, range) else (order, 0)
        getattr(compiled, f"gather_{indexed.dtype.name}")(
            indexed.content,
            indexed.lengths,
            indexed.pointers,
            ids,
            len(order),
            first,
            starts,
            num_wanted,
            out.tokens,
            out.num_real,
            out.begins,
            rows,
        )


def gather_with_numpy(
    laid: Laid, starts: NDArray[np.int64], out: Samples, rows: NDArray[np.int64], num_wanted: int
) -> None:
    """What the compiled `gather` does, in Python."""
    for row, (position, offset) in zip(rows.tolist(), starts.tolist(), strict=True):
        tokens, begins = out.tokens[row], out.begins[row]
        begins[:] = False
        begins[0] = True
        num_real = 0
        while num_real < num_wanted and position < len(laid.order):
            sequence = int(laid.order[position])
            length = min(int(laid.indexed.lengths[sequence]) - offset, num_wanted - num_real)
            part = laid.indexed.tokens(sequence, offset, length)
            if length > 0:
                _require_int32(part)
                tokens[num_real : num_real + length] = part
                begins[num_real] = True
            num_real += length
            position, offset = position + 1, 0
        tokens[num_real:] = 0
        out.num_real[row] = num_real


def _require_int32(values: NDArray[Any]) -> None:
    if values.dtype.itemsize > _INT32.dtype.itemsize:
        wrong = values[(values < _INT32.min) | (values > _INT32.max)]
        if len(wrong):
            raise OverflowError(f"the token id {int(wrong[0])} does not fit 32 bits")
