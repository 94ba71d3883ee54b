"""Numbers of 8 bits with scales per tile, and their product: the definition, computed exactly.

DeepSeek-V3, arXiv:2412.19437, section 3.3.

Shapes: m, n rows, k what a product contracts, c = ceil(k / 128) tiles of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 128
LARGEST = 448.0
"""Of E4M3, which has no infinity."""
SMALLEST_AMAX = 1e-4
"""A tile of activations or weights is scaled as if it held a number of this size at least, as in DeepSeek's released
kernel, which is one for inference."""
SMALLEST_GRADIENT = 1e-30
"""The same for gradients, for division's sake alone: those of a mean over 63 million tokens are near 1e-9."""


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A matrix as E4M3 `values_mk` times fp32 `scales`: one for each tile of `rows` x 128, cut off at the edges;
    [ceil(m / rows), c]."""

    values_mk: Tensor
    scales: Tensor
    rows: int


Product = Callable[[Quantised, Quantised], Tensor]
"""Of a [m, k], in tiles of one row, and b [n, k]: a @ b.T, fp32 [m, n]."""


@dataclass(frozen=True, kw_only=True)
class Fp8Recipe:
    """How products of 8 bits are made, and whether scales are rounded up to powers of two (ue8m0)."""

    product: Product
    has_power_of_two_scales: bool = False

    def in_tiles(self, x_mk: Tensor) -> Quantised:
        """Activations: tiles of 1 x 128."""
        return quantised(x_mk, rows=1, to_power_of_two=self.has_power_of_two_scales)

    def in_gradient_tiles(self, grad_mk: Tensor) -> Quantised:
        """Gradients of activations: tiles of 1 x 128, however small what they hold."""
        to_power_of_two = self.has_power_of_two_scales
        return quantised(grad_mk, rows=1, to_power_of_two=to_power_of_two, smallest_amax=SMALLEST_GRADIENT)

    def in_blocks(self, weight_nk: Tensor) -> Quantised:
        """Weights: blocks of 128 x 128."""
        return quantised(weight_nk, rows=TILE, to_power_of_two=self.has_power_of_two_scales)


def quantised(x_mk: Tensor, *, rows: int, to_power_of_two: bool, smallest_amax: float = SMALLEST_AMAX) -> Quantised:
    """`x_mk` of any floating type, in tiles of `rows` x 128: scale = amax / 448, value = x / scale rounded to E4M3."""
    count, width = x_mk.shape
    padded = F.pad(x_mk.detach().float(), (0, -width % TILE, 0, -count % rows))
    tiles = padded.view(padded.shape[0] // rows, rows, padded.shape[1] // TILE, TILE)
    scales = tiles.abs().amax((1, 3)).clamp(min=smallest_amax) / LARGEST
    if to_power_of_two:
        scales = _rounded_up(scales)
    values = (tiles / scales[:, None, :, None]).to(torch.float8_e4m3fn).view(padded.shape)
    return Quantised(values_mk=values[:count, :width].contiguous(), scales=scales, rows=rows)


def dequantised(x: Quantised) -> Tensor:
    """Each value times the scale of its tile, fp32 [m, k]."""
    count, width = x.values_mk.shape
    spread = x.scales.repeat_interleave(x.rows, 0)[:count].repeat_interleave(TILE, 1)[:, :width]
    return x.values_mk.float() * spread


def transposed(blocks: Quantised) -> Quantised:
    """Of a matrix in square blocks, which are those of its transpose too."""
    assert blocks.rows == TILE, "tiles of one row are others in the transpose"
    return Quantised(values_mk=blocks.values_mk.T, scales=blocks.scales.T, rows=TILE)


def emulated_product(a: Quantised, b: Quantised) -> Tensor:
    """See Product. For each 128 of k the sum is exact and rounded once to fp32, multiplied by the product of the two
    scales, and added in fp32. (Tensor cores keep fewer bits within a tile.)"""
    out: Tensor = _emulated(a.values_mk, a.scales, b.values_mk, b.scales, b.rows)
    return out


@torch.library.custom_op("firstlight::fp8_product", mutates_args=())
def _emulated(a_mk: Tensor, a_scales: Tensor, b_nk: Tensor, b_scales: Tensor, rows: int) -> Tensor:
    """One operator, so that recomputation can keep its result and not what it is made of."""
    out_mn = torch.zeros(a_mk.shape[0], b_nk.shape[0], dtype=torch.float32, device=a_mk.device)
    b_scales_nc = b_scales.repeat_interleave(rows, 0)[: b_nk.shape[0]]
    for tile, begin in enumerate(range(0, a_mk.shape[1], TILE)):
        part = slice(begin, begin + TILE)
        # 128 products of E4M3 numbers have an exact sum in fp64: no order of addition shows.
        sum_mn = (a_mk[:, part].double() @ b_nk[:, part].double().T).float()
        out_mn += sum_mn.mul_(a_scales[:, tile, None] * b_scales_nc[:, tile])
    return out_mn


@_emulated.register_fake
def _(a_mk: Tensor, _a_scales: Tensor, b_nk: Tensor, _b_scales: Tensor, _rows: int) -> Tensor:
    return a_mk.new_empty(a_mk.shape[0], b_nk.shape[0], dtype=torch.float32)


def _rounded_up(scales: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(scales)
    return torch.ldexp(torch.ones_like(scales), exponent - (mantissa == 0.5).to(exponent.dtype))
