"""Where the tokens of a batch are, what each of them sees, and what it has to predict.

Shapes: b batch, s sequence, k depths of prediction, the next token first.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from firstlight.config.model import Attention
from firstlight.models.layers import rotary_table
from firstlight.ops.attention import Visibility
from firstlight.ops.rotary import RotaryTable


@dataclass(frozen=True, kw_only=True)
class Places:
    """The angles of the positions, and what each of them sees."""

    rope: RotaryTable
    visibility: Visibility


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A micro-batch as the decoder reads it: int64 tokens [b, s], labels and what of them counts [k, b, s]."""

    tokens_bs: Tensor
    labels_kbs: Tensor
    masks_kbs: Tensor
    places: Places


def inputs_here(
    attention: Attention,
    tokens_bs: Tensor,
    labels_bs: Tensor,
    mask_bs: Tensor,
    begins_bs: Tensor | None,
    *,
    depths: int,
) -> Inputs:
    """The whole rows, with `depths` of multi-token prediction after the next token.

    At depth k position i has seen the labels up to i + k - 1, of which the last is embedded, and predicts the next.
    """
    labels = [labels_bs]
    for _ in range(depths):
        labels.append(shifted(labels[-1]))
    masks = [mask_ahead(mask_bs, begins_bs, depth) for depth in range(depths + 1)]
    return Inputs(
        tokens_bs=tokens_bs,
        labels_kbs=torch.stack(labels),
        masks_kbs=torch.stack(masks),
        places=places_of(attention, tokens_bs, begins_bs),
    )


def places_of(attention: Attention, tokens_bs: Tensor, begins_bs: Tensor | None = None) -> Places:
    """Positions from 0, and all that came before seen; with `begins_bs` bool [b, s] each document stands for itself.

    The first place of a row begins a document whatever `begins_bs` says.
    """
    length, device = tokens_bs.shape[1], tokens_bs.device
    positions = place_s = torch.arange(length, device=device)
    documents_bs = None
    if begins_bs is not None:
        is_later_bs = begins_bs & (place_s > 0)
        documents_bs = is_later_bs.cumsum(1)
        positions = place_s - torch.where(is_later_bs, place_s, 0).cummax(1).values
    return Places(
        rope=rotary_table(attention.rope, attention.rotary_width, positions),
        visibility=Visibility(documents_bs),
    )


def mask_ahead(mask_bs: Tensor, begins_bs: Tensor | None, depth: int) -> Tensor:
    """Which targets of prediction depth `depth` count: those in the row, with `begins_bs` in the same document.

    `mask_bs` says which count at depth 0; it must leave out the prediction of a document's first token.
    """
    for _ in range(depth):
        mask_bs = shifted(mask_bs)
    for _ in range(depth if begins_bs is not None else 0):
        assert begins_bs is not None
        begins_bs = shifted(begins_bs)
        mask_bs = mask_bs * ~begins_bs
    return mask_bs


def shifted(x_bs: Tensor) -> Tensor:
    """Each row one to the left, zero at its end: for a mask, the last position has nothing to predict."""
    return torch.cat((x_bs[:, 1:], torch.zeros_like(x_bs[:, :1])), dim=1)
