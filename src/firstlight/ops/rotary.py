"""Rotary position embedding: the angles, and the rotation in both layouts of pairs.

Shapes: b batch, h heads, s sequence, r rotated width, f = r / 2 frequencies.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RotaryTable:
    """Cosines and sines [s, f], fp32, already multiplied by YaRN's attention factor where there is one.

    [b, 1, s, f] where each row counts its positions in its own way.
    """

    cos_sf: Tensor
    sin_sf: Tensor


def frequencies(width: int, theta: float, *, device: torch.device | None = None) -> Tensor:
    """Rotations per position of each pair, [f] fp32: theta^(-2i/r)."""
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    return 1.0 / theta**exponents


def yarn_frequencies(
    plain_f: Tensor,
    *,
    theta: float,
    factor: float,
    original_length: int,
    beta_fast: float,
    beta_slow: float,
    truncate: bool = True,
) -> Tensor:
    """YaRN's mixture (arXiv:2309.00071, section 3.2): slow pairs are stretched by `factor`, fast ones are kept.

    With `truncate` the ramp between them begins and ends at whole pairs.
    """
    width = 2 * plain_f.shape[0]

    def pair_with_rotations(rotations: float) -> float:
        return width * math.log(original_length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with_rotations(beta_fast), pair_with_rotations(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    index_f = torch.arange(plain_f.shape[0], dtype=torch.float32, device=plain_f.device)
    # The tiny width keeps the ramp a step, not a division by zero, when both ends meet.
    ramp_f = ((index_f - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain_f / factor * ramp_f + plain_f * (1 - ramp_f)


def llama3_frequencies(
    plain_f: Tensor, *, factor: float, low_freq_factor: float, high_freq_factor: float, original_length: int
) -> Tensor:
    """Llama 3.1's scaling: long wavelengths are stretched by `factor`, short ones kept, a ramp between."""
    wavelength_f = 2 * math.pi / plain_f
    smooth_f = (original_length / wavelength_f - low_freq_factor) / (high_freq_factor - low_freq_factor)
    smooth_f = smooth_f.clamp(0, 1)
    return (1 - smooth_f) * plain_f / factor + smooth_f * plain_f


def yarn_mscale(factor: float, mscale: float) -> float:
    """DeepSeek's attention temperature 0.1 * mscale * ln(factor) + 1 (1 where the context is not stretched)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def rotate_interleaved(x_bhsr: Tensor, table: RotaryTable) -> Tensor:
    """Rotate the pairs (x0, x1), (x2, x3) ... and leave the result as [first members | second members].

    Queries and keys are reordered alike, so their products are those of the interleaved layout.
    """
    return _rotate(x_bhsr[..., 0::2], x_bhsr[..., 1::2], table)


def rotate_half_split(x_bhsr: Tensor, table: RotaryTable) -> Tensor:
    """Rotate the pairs (x0, x_f), (x1, x_f+1) ..., Llama's layout."""
    first, second = x_bhsr.chunk(2, dim=-1)
    return _rotate(first, second, table)


def _rotate(first: Tensor, second: Tensor, table: RotaryTable) -> Tensor:
    cos, sin = table.cos_sf.to(first.dtype), table.sin_sf.to(first.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
