"""QK-clip (Kimi-K2, arXiv:2507.20534, section 2.1): heads whose attention logits grow too large are scaled back.

Shapes: h query heads, g key/value heads, r rows of a projection.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from firstlight.config.model import Attention, GroupedQueryAttention, MultiHeadLatentAttention
from firstlight.config.optimizer import QkClip as QkClipConfig
from firstlight.optim.whole_matrix import block_of, rows_of_block

Scales = Iterator[tuple[str, Tensor]]
"""The end of a projection's name, and what its rows [r] are multiplied by."""


class QkClip:
    """Scales query and key projections of heads above the threshold by gamma = threshold / largest logit, in all.

    `largest` gives the largest logits [h] of each layer in the step that was just applied, the same on every rank, so
    every rank scales what it holds alike.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        attention: Attention,
        config: QkClipConfig,
        largest: Callable[[], Mapping[str, Tensor]],
    ) -> None:
        self._parameters = parameters
        self._attention = attention
        self._threshold = config.threshold
        self._largest = largest

    @torch.no_grad()
    def __call__(self) -> None:
        """Scale what this rank holds. Not a collective."""
        for layer, largest_h in self._largest().items():
            gamma_h = torch.where(largest_h > self._threshold, self._threshold / largest_h, 1.0)
            if bool((gamma_h == 1).all()):
                continue
            for ending, scales_r in _row_scales(self._attention, gamma_h):
                parameter = self._parameters.get(f"{layer}.attention.{ending}")
                if parameter is not None:
                    _scale_rows(parameter, scales_r)


def _row_scales(attention: Attention, gamma_h: Tensor) -> Scales:
    match attention:
        case MultiHeadLatentAttention():
            return _latent(attention, gamma_h)
        case GroupedQueryAttention():
            return _grouped(attention, gamma_h)


def _latent(attention: MultiHeadLatentAttention, gamma_h: Tensor) -> Scales:
    """Half of it (the root) to each of the parts without positions. The rotated key is shared by all heads and is left
    alone, so the rotated queries take all of theirs."""
    root_h = gamma_h.sqrt()
    nope, rope, value = attention.qk_nope_head_dim, attention.qk_rope_head_dim, attention.v_head_dim
    query = "q_proj.weight" if attention.q_lora_rank is None else "q_b_proj.weight"
    yield query, torch.cat((_rows(root_h, nope), _rows(gamma_h, rope)), dim=1).flatten()
    yield "kv_b_proj.weight", torch.cat((_rows(root_h, nope), _rows(torch.ones_like(root_h), value)), dim=1).flatten()


def _grouped(attention: GroupedQueryAttention, gamma_h: Tensor) -> Scales:
    """A key head takes the root of the smallest gamma among the query heads that share it, and each of these what is
    left of its own: a head that was below the threshold keeps its logits as they were."""
    shared = attention.num_attention_heads // attention.num_key_value_heads
    key_g = gamma_h.unflatten(0, (-1, shared)).amin(1).sqrt()
    query_h = gamma_h / key_g.repeat_interleave(shared)
    for name, scales in (("q_proj", query_h), ("k_proj", key_g)):
        rows = _rows(scales, attention.head_dim).flatten()
        yield f"{name}.weight", rows
        yield f"{name}.bias", rows


def _rows(scales_h: Tensor, width: int) -> Tensor:
    """[h, width]."""
    return scales_h.unsqueeze(1).expand(-1, width)


def _scale_rows(parameter: nn.Parameter, scales_r: Tensor) -> None:
    block = block_of(parameter.detach())
    scales = scales_r[rows_of_block(parameter)].to(block)
    block.mul_(scales.view(-1, *(1 for _ in block.shape[1:])))
