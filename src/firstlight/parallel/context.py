"""Context parallelism: each rank of a group has some positions of every sequence, and attention brings them together.

Shapes: b batch, h query heads, g key/value heads, s positions of this rank, k query/key width, v value width.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh

from firstlight.config.model import Attention
from firstlight.layout.context import positions_of
from firstlight.models.attention import GroupedQuery, MultiHeadLatent
from firstlight.models.decoder import Decoder
from firstlight.models.places import Inputs, Places, inputs_here
from firstlight.ops.attention import Visibility, causal_attention
from firstlight.ops.rotary import RotaryTable
from firstlight.parallel.ring import Ring, ring_attention


class ContextInputs:
    """Reads whole rows and keeps this rank's positions of them. Which documents there are stays known of whole rows."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self._ring_size, self._heads_size = mesh["ring"].size(), mesh["heads"].size()
        self._place = mesh.get_local_rank("ring") * self._heads_size + mesh.get_local_rank("heads")

    def __call__(
        self,
        attention: Attention,
        tokens_bs: Tensor,
        labels_bs: Tensor,
        mask_bs: Tensor,
        begins_bs: Tensor | None,
        *,
        depths: int,
    ) -> Inputs:
        """As `inputs_here`."""
        whole = inputs_here(attention, tokens_bs, labels_bs, mask_bs, begins_bs, depths=depths)
        spans = positions_of(
            self._place, ring_size=self._ring_size, heads_size=self._heads_size, length=tokens_bs.shape[1]
        )
        rope = whole.places.rope
        return Inputs(
            tokens_bs=_taken(whole.tokens_bs, spans, dim=1),
            labels_kbs=_taken(whole.labels_kbs, spans, dim=2),
            masks_kbs=_taken(whole.masks_kbs, spans, dim=2),
            places=Places(
                rope=RotaryTable(cos_sf=_taken(rope.cos_sf, spans, dim=-2), sin_sf=_taken(rope.sin_sf, spans, dim=-2)),
                visibility=whole.places.visibility,
            ),
        )


class ContextAttention:
    """Attention of this rank's positions to those of the whole group: heads for positions among `heads`, keys and
    values round `ring`; a group of one rank has nothing to do."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self._ring = mesh.get_group("ring")
        self._heads = mesh.get_group("heads")

    def __call__(
        self,
        query_bhsk: Tensor,
        key_bgsk: Tensor,
        value_bgsv: Tensor,
        *,
        scale: float,
        visibility: Visibility | None = None,
        window: int | None = None,
        sinks_h: Tensor | None = None,
        largest_h: Tensor | None = None,
    ) -> Tensor:
        """As `causal_attention`; `visibility` is that of whole rows."""
        ranks = self._heads.size()
        if ranks > 1:
            query_bhsk, key_bgsk, value_bgsv = heads_for_positions(query_bhsk, key_bgsk, value_bgsv, self._heads)
            sinks_h = None if sinks_h is None else sinks_h.chunk(ranks)[self._heads.rank()]
            largest_h = None if largest_h is None else largest_h.chunk(ranks)[self._heads.rank()]
        if self._ring.size() > 1:
            length = query_bhsk.shape[2] * self._ring.size()
            documents_bs = None if visibility is None else visibility.documents_bs
            ring = Ring(
                group=self._ring,
                length=length,
                scale=scale,
                window=window,
                documents_bs=documents_bs,
                largest_h=largest_h,
            )
            out_bhsv = ring_attention(query_bhsk, key_bgsk, value_bgsv, ring, sinks_h=sinks_h)
        else:
            out_bhsv = causal_attention(
                query_bhsk,
                key_bgsk,
                value_bgsv,
                scale=scale,
                visibility=visibility,
                window=window,
                sinks_h=sinks_h,
                largest_h=largest_h,
            )
        return positions_for_heads(out_bhsv, self._heads) if ranks > 1 else out_bhsv


def apply_context_parallel(model: Decoder, mesh: DeviceMesh) -> None:
    """Let `model` read this rank's positions, and attend to those of the group: axes `ring` and `heads` of `mesh`."""
    model.read_inputs = ContextInputs(mesh)
    attend = ContextAttention(mesh)
    for module in model.modules():
        if isinstance(module, GroupedQuery | MultiHeadLatent):
            module.attend = attend


def heads_for_positions(
    query_bhsk: Tensor, key_bgsk: Tensor, value_bgsv: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """All positions of this rank's share of the heads, for some positions of all heads; one all-to-all.

    Where there are fewer key/value heads than ranks, some ranks have the same ones.
    """
    ranks, groups = group.size(), key_bgsk.shape[1]
    copies = math.lcm(groups, ranks) // groups
    if copies > 1:
        key_bgsk, value_bgsv = (x.repeat_interleave(copies, dim=1) for x in (key_bgsk, value_bgsv))
    parts = [x.unflatten(1, (ranks, -1)).transpose(0, 1) for x in (query_bhsk, key_bgsk, value_bgsv)]
    received = _exchanged(torch.cat([part.flatten(1) for part in parts], dim=1), group)
    pieces = received.split([math.prod(part.shape[1:]) for part in parts], dim=1)
    query, key, value = (
        piece.view(part.shape).permute(1, 2, 0, 3, 4).flatten(2, 3) for piece, part in zip(pieces, parts, strict=True)
    )
    return query, key, value


def positions_for_heads(out_bhsv: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The way back: this rank's positions of all heads."""
    parts = out_bhsv.unflatten(2, (group.size(), -1)).movedim(2, 0)
    out: Tensor = _exchanged(parts, group).transpose(0, 1).flatten(1, 2)
    return out


def _exchanged(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The first dimension is the rank that a part goes to, and then that which it came from."""
    out: Tensor = all_to_all_single_autograd(parts.contiguous(), None, None, group)
    return out


def _taken(whole: Tensor, spans: Sequence[range], *, dim: int) -> Tensor:
    return torch.cat([whole.narrow(dim, span.start, len(span)) for span in spans], dim=dim)
