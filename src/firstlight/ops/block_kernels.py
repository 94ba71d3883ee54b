"""What computes a block of attention: torch's kernels that give the logarithms of their sums, and the definition.

Which one serves where is said by `parallel/device.py`.

Shapes: b batch, h query heads, g key/value heads, q queries and t keys of a block, k query/key width, v value width.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from firstlight.ops.attention_blocks import Block, Part, finite

_aten = torch.ops.aten

_CUDA_WIDTH_MULTIPLE = 8
"""Of heads, in the flash kernel for CUDA."""


class BlockKernel(Protocol):
    """Softmax attention of queries [b, h, q, k] to the keys [b, g, t, k] and values [b, g, t, v] of one block."""

    is_fused: bool
    """A block without a mask needs no matrix of scores."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, block: Block, mask: Tensor | None
    ) -> Part:
        """The softmax over the keys of the block, of which `mask` is the mask; its log-sums are at least fp32."""

    def gradients(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        joined: Part,
        *,
        scale: float,
        block: Block,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the block adds to the gradients of query, key and value; `joined` is the softmax over all blocks."""


class DefinitionKernel:
    """The definition, with the block's matrix of scores."""

    is_fused = False

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, block: Block, mask: Tensor | None
    ) -> Part:
        """See BlockKernel."""
        scores = scores_of(query, key, scale=scale, block=block, mask=mask)
        log_sum = scores.logsumexp(-1)
        chances = (scores - finite(log_sum).unsqueeze(-1)).exp()
        return Part((chances @ _for_each_query_head(value, query)).to(query.dtype), log_sum)

    def gradients(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        joined: Part,
        *,
        scale: float,
        block: Block,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See BlockKernel."""
        heads = key.shape[1]
        chances = (scores_of(query, key, scale=scale, block=block, mask=mask) - joined.log_sum.unsqueeze(-1)).exp()
        precise = grad.to(chances.dtype)
        of_chances = precise @ _for_each_query_head(value, query).transpose(-2, -1)
        mean = (precise * joined.out).sum(-1, keepdim=True)
        of_scores = chances * (of_chances - mean) * scale
        grad_query = of_scores @ _for_each_query_head(key, query)
        grad_key = of_scores.transpose(-2, -1) @ query.to(chances.dtype)
        grad_value = chances.transpose(-2, -1) @ precise
        grad_key, grad_value = (part.unflatten(1, (heads, -1)).sum(2) for part in (grad_key, grad_value))
        return grad_query, grad_key, grad_value


class CpuKernel:
    """torch's flash kernel on CPU. It takes masks as what is added to the scores."""

    is_fused = True

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, block: Block, mask: Tensor | None
    ) -> Part:
        """See BlockKernel."""
        width = value.shape[-1]
        query, key, value = _of_one_width(query, key, value)
        out, log_sum = _aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, is_causal=block.sees == "causal", attn_mask=_bias(mask, query.dtype), scale=scale
        )
        if mask is not None:
            # The kernel says zero for a query that sees nothing.
            log_sum = log_sum.masked_fill(~mask.any(-1), float("-inf"))
        return Part(out[..., :width], log_sum)

    def gradients(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        joined: Part,
        *,
        scale: float,
        block: Block,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See BlockKernel."""
        widths = query.shape[-1], key.shape[-1], value.shape[-1]
        query, key, value, grad, out = _of_one_width(query, key, value, grad, joined.out)
        is_causal = block.sees == "causal"
        grads = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad,
            query,
            key,
            value,
            out,
            joined.log_sum,
            0.0,
            is_causal,
            attn_mask=_bias(mask, query.dtype),
            scale=scale,
        )
        grad_query, grad_key, grad_value = (part[..., :width] for part, width in zip(grads, widths, strict=True))
        return grad_query, grad_key, grad_value


class CudaKernel:
    """torch's flash kernel on CUDA, in half precision. It takes no mask: masked blocks are computed by definition."""

    is_fused = True
    max_width = 256
    """Of heads."""

    def __init__(self) -> None:
        self._masked = DefinitionKernel()

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, block: Block, mask: Tensor | None
    ) -> Part:
        """See BlockKernel."""
        if mask is not None:
            return self._masked.attend(query, key, value, scale=scale, block=block, mask=mask)
        width = value.shape[-1]
        query, key, value = _of_one_width(query, key, value, multiple=_CUDA_WIDTH_MULTIPLE)
        out, log_sum, *_ = _aten._scaled_dot_product_flash_attention(
            query, key, value, is_causal=block.sees == "causal", scale=scale
        )
        return Part(out[..., :width], log_sum)

    def gradients(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        joined: Part,
        *,
        scale: float,
        block: Block,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See BlockKernel."""
        if mask is not None:
            return self._masked.gradients(grad, query, key, value, joined, scale=scale, block=block, mask=mask)
        widths = query.shape[-1], key.shape[-1], value.shape[-1]
        query, key, value, grad, out = _of_one_width(query, key, value, grad, joined.out, multiple=_CUDA_WIDTH_MULTIPLE)
        without_dropout = torch.zeros(2, dtype=torch.uint64, device=query.device)
        grads = _aten._scaled_dot_product_flash_attention_backward(
            grad,
            query,
            key,
            value,
            out,
            joined.log_sum,
            None,  # sequences of one length
            None,
            query.shape[2],
            key.shape[2],
            0.0,
            block.sees == "causal",
            without_dropout,
            without_dropout[:0],
            scale=scale,
        )
        grad_query, grad_key, grad_value = (part[..., :width] for part, width in zip(grads, widths, strict=True))
        return grad_query, grad_key, grad_value


def scores_of(query: Tensor, key: Tensor, *, scale: float, block: Block, mask: Tensor | None) -> Tensor:
    """[b, h, q, t], at least fp32, -inf where a key is not seen."""
    precise = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(precise) @ _for_each_query_head(key, query).transpose(-2, -1) * scale
    if block.sees == "causal":
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return scores if mask is None else scores.masked_fill(~mask, float("-inf"))


def _for_each_query_head(x_bgtk: Tensor, query: Tensor) -> Tensor:
    precise = torch.promote_types(query.dtype, torch.float32)
    return x_bgtk.to(precise).repeat_interleave(query.shape[1] // x_bgtk.shape[1], dim=1)


def _of_one_width(*tensors: Tensor, multiple: int = 1) -> tuple[Tensor, ...]:
    """Padded with zeros to the widest, which changes no score and no value: these kernels want one width."""
    width = -(-max(tensor.shape[-1] for tensor in tensors) // multiple) * multiple
    return tuple(
        tensor if tensor.shape[-1] == width else F.pad(tensor, (0, width - tensor.shape[-1])) for tensor in tensors
    )


def _bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to the scores."""
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
