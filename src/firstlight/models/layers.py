"""The small layers: normalisation, rotary table, dense feed-forward.

Shapes: b batch, s sequence, d model width, f feed-forward width.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from firstlight.config.model import Activation, ClampedSwigluActivation, SwigluActivation
from firstlight.config.rope import Llama3Scaling, Rope, YarnScaling
from firstlight.ops.activation import clamped_swiglu, swiglu
from firstlight.ops.norm import Normalise, rms_norm
from firstlight.ops.rotary import RotaryTable, frequencies, llama3_frequencies, yarn_frequencies, yarn_mscale


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, over the last dimension (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.normalise: Normalise = rms_norm

    def forward(self, x: Tensor) -> Tensor:
        # In the input's type: torch's fused kernel takes no mixture, as autocast makes one of the latents.
        return self.normalise(x, self.weight.to(x.dtype), self.eps)


class FeedForward(nn.Module):
    """down(activation(gate(x), up(x)))."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: Activation) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.activation = activation_of(activation)

    def forward(self, hidden_bsd: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.activation(self.gate_proj(hidden_bsd), self.up_proj(hidden_bsd)))
        return out


def activation_of(config: Activation) -> Callable[[Tensor, Tensor], Tensor]:
    """The function of gate and up projection that the configuration names."""
    match config:
        case SwigluActivation():
            return swiglu
        case ClampedSwigluActivation():
            return partial(clamped_swiglu, alpha=config.alpha, limit=config.limit)


def yarn_multiplier(yarn: YarnScaling) -> float:
    """What cosines and sines are multiplied by; 1 where both temperatures are alike, as in the released models."""
    return yarn_mscale(yarn.factor, yarn.mscale) / yarn_mscale(yarn.factor, yarn.mscale_all_dim)


def rotary_table(rope: Rope, width: int, positions: Tensor) -> RotaryTable:
    """Angles of `positions` [s] or [b, s] for a rotated width of `width`, with the configured scaling."""
    plain_f = frequencies(width, rope.theta, device=positions.device)
    multiplier = 1.0
    match rope.scaling:
        case YarnScaling() as yarn:
            used_f = yarn_frequencies(
                plain_f,
                theta=rope.theta,
                factor=yarn.factor,
                original_length=yarn.original_max_position_embeddings,
                beta_fast=yarn.beta_fast,
                beta_slow=yarn.beta_slow,
                truncate=yarn.truncate,
            )
            multiplier = yarn_multiplier(yarn)
        case Llama3Scaling() as llama3:
            used_f = llama3_frequencies(
                plain_f,
                factor=llama3.factor,
                low_freq_factor=llama3.low_freq_factor,
                high_freq_factor=llama3.high_freq_factor,
                original_length=llama3.original_max_position_embeddings,
            )
        case None:
            used_f = plain_f
    angles_sf = positions.to(torch.float32)[..., None] * used_f
    if positions.ndim > 1:
        angles_sf = angles_sf.unsqueeze(1)  # the same for all heads
    return RotaryTable(cos_sf=angles_sf.cos() * multiplier, sin_sf=angles_sf.sin() * multiplier)
