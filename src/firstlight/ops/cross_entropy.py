"""The loss of the output head, without keeping logits longer than needed.

Shapes: t tokens, d model width, v vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_IGNORED = -100


def summed_cross_entropy(hidden_td: Tensor, weight_vd: Tensor, labels_t: Tensor, mask_t: Tensor) -> Tensor:
    """Sum over the positions with `mask_t` != 0 of -log softmax(hidden @ weight.T)[label], in nats; a scalar.

    `labels_t` int64; a masked position's label may be anything.
    """
    targets_t = torch.where(mask_t != 0, labels_t, _IGNORED)
    return F.linear_cross_entropy(hidden_td, weight_vd, targets_t, reduction="sum", ignore_index=_IGNORED)
