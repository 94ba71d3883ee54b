"""Causal softmax attention.

Shapes: b batch, h query heads, g key/value heads, s sequence, k query/key width, v value width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(query_bhsk: Tensor, key_bgsk: Tensor, value_bgsv: Tensor, *, scale: float) -> Tensor:
    """Attention of every position to itself and those before it; returns [b, h, s, v].

    On CPU, torch's fused kernel wants equal widths and falls back to the full score matrix otherwise: a narrower
    value is padded with zeros, which is exact and measured 2.4 times as fast at 512 positions and widths 48 and 32.
    """
    key_width, value_width = key_bgsk.shape[-1], value_bgsv.shape[-1]
    is_padded = query_bhsk.device.type == "cpu" and value_width < key_width
    if is_padded:
        value_bgsv = F.pad(value_bgsv, (0, key_width - value_width))
    shares_keys = key_bgsk.shape[1] != query_bhsk.shape[1]
    out = F.scaled_dot_product_attention(
        query_bhsk, key_bgsk, value_bgsv, is_causal=True, scale=scale, enable_gqa=shares_keys
    )
    return out[..., :value_width] if is_padded else out


def reference_causal_attention(query_bhsk: Tensor, key_bgsk: Tensor, value_bgsv: Tensor, *, scale: float) -> Tensor:
    """The definition, with the whole score matrix; for tests."""
    groups = query_bhsk.shape[1] // key_bgsk.shape[1]
    key_bhsk = key_bgsk.repeat_interleave(groups, dim=1)
    value_bhsv = value_bgsv.repeat_interleave(groups, dim=1)
    scores_bhst = query_bhsk @ key_bhsk.transpose(-2, -1) * scale
    length = scores_bhst.shape[-1]
    future = torch.ones(length, length, dtype=torch.bool, device=scores_bhst.device).triu(1)
    return scores_bhst.masked_fill(future, float("-inf")).softmax(-1) @ value_bhsv
