"""DeepSeek's 8-bit weights: E4M3 numbers in blocks of 128 x 128, each with a scale of its own."""

import torch
from torch import Tensor

from firstlight.base.errors import InputError

SCALE_SUFFIX = "weight_scale_inv"
_BLOCK = 128


def dequantised(values_oi: Tensor, scales: Tensor) -> Tensor:
    """Each number times the scale of its block, fp32 [o, i]; the last blocks of a row or column may be cut off.

    `scales` fp32 [ceil(o / 128), ceil(i / 128)]. Raises InputError when there are not as many.
    """
    rows, columns = values_oi.shape
    expected = (-(-rows // _BLOCK), -(-columns // _BLOCK))
    if tuple(scales.shape) != expected:
        raise InputError(f"{tuple(scales.shape)} scales for {rows} x {columns} 8-bit weights; {expected} are needed")
    out = values_oi.to(torch.float32)
    for row in range(expected[0]):
        # A row of blocks at a time: the scales are never spread out over the whole matrix.
        spread = scales[row].to(torch.float32).repeat_interleave(_BLOCK)[:columns]
        out[row * _BLOCK : (row + 1) * _BLOCK] *= spread
    return out
