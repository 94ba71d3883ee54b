"""The product of 8-bit numbers by torch's scaled matrix product, which cuBLAS has for these tiles on Hopper.

Shapes: m, n rows, k what is contracted, c = ceil(k / 128), g = ceil(n / 128).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from firstlight.ops.fp8 import TILE, Quantised

_SCALE_ROWS = 4
"""cuBLAS reads scales of blocks in columns of a multiple of this."""


def scaled_product(a: Quantised, b: Quantised) -> Tensor:
    """See `Product`. Edges are filled up with zeros to whole tiles."""
    count, columns = a.values_mk.shape[0], b.values_mk.shape[0]
    if not (count and columns and a.values_mk.shape[1]):
        return a.scales.new_zeros(count, columns)
    a_mk, b_nk = _filled(a.values_mk), _filled(b.values_mk)
    if b.rows == TILE:
        kind, scales_b = F.ScalingType.BlockWise128x128, _of_blocks(b.scales)
    else:
        kind, scales_b = F.ScalingType.BlockWise1x128, _of_rows(b.scales, b_nk.shape[0])
    out_mn = F.scaled_mm(
        a_mk,
        b_nk.T,
        scale_a=_of_rows(a.scales, a_mk.shape[0]),
        scale_recipe_a=F.ScalingType.BlockWise1x128,
        scale_b=scales_b,
        scale_recipe_b=kind,
        output_dtype=torch.float32,
    )
    return out_mn[:count, :columns]


def _filled(values_mk: Tensor) -> Tensor:
    rows, width = values_mk.shape
    # Padding is not defined for this type; its zero is that of a byte.
    whole = F.pad(values_mk.contiguous().view(torch.uint8), (0, -width % TILE, 0, -rows % TILE))
    return whole.view(torch.float8_e4m3fn)


def _of_rows(scales_mc: Tensor, rows: int) -> Tensor:
    """[rows, c] with the rows next to each other in memory; the added ones, whose values are zero, have scale 1."""
    return F.pad(scales_mc, (0, 0, 0, rows - scales_mc.shape[0]), value=1.0).T.contiguous().T


def _of_blocks(scales_gc: Tensor) -> Tensor:
    """[c, g], columns next to each other in memory and filled up to a multiple of 4."""
    return F.pad(scales_gc, (0, -scales_gc.shape[1] % _SCALE_ROWS), value=1.0).contiguous().T
