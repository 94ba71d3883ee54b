"""Tensor parallelism with sequence parallelism, from the table of `models/sharding.py`.

Between modules activations are plain tensors, each rank's part of the sequence. Every rank of a group has the whole
loss, so a sum over the group passes its gradient on as it is.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from firstlight.models.decoder import Decoder, TokenSums
from firstlight.models.moe import MixtureOfExperts
from firstlight.models.sharding import Cut, cut_of, cuts
from firstlight.ops.cross_entropy import capped
from firstlight.parallel.copied import mark_as_copied
from firstlight.parallel.local_parameters import distribute, local_part
from firstlight.parallel.parts import summed

_SEQUENCE = 1
"""The dimension of positions in [b, s, d]."""


class Copied(ParallelStyle):
    """Each rank has the parameters and works on what it has; gradients are summed over the group in the end."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        distribute(module, device_mesh, {name: [Replicate()] for name, _ in module.named_parameters(recurse=False)})
        mark_as_copied(module)
        return module


class Gathered(ParallelStyle):
    """The first argument is gathered along the sequence, whatever the others are; own parameters are cut by head."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        distribute(module, device_mesh, {name: [Shard(0)] for name, _ in module.named_parameters(recurse=False)})
        as_dtensor = any(True for _ in module.children())

        def gather(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            whole = gathered(args[0], device_mesh)
            return (whole if as_dtensor else whole.to_local(grad_placements=[Partial()]), *args[1:])

        module.register_forward_pre_hook(gather)
        return module


class VocabularyParallelLoss:
    """Cross-entropy of logits whose vocabulary is cut over the ranks: no rank holds a whole row of them.

    torch's `loss_parallel` would also have to stand round the backward pass, which is the engine's.
    """

    def __init__(self, mesh: DeviceMesh, soft_cap: float | None) -> None:
        self._mesh = mesh
        self._soft_cap = soft_cap

    def __call__(self, hidden_bsd: Tensor, weight_vd: Tensor, labels_bs: Tensor, mask_bs: Tensor) -> TokenSums:
        """As `token_loss` of the decoder, of the part of the sequence that is here and the head's rows."""
        hidden_td = gathered(hidden_bsd, self._mesh).to_local(grad_placements=[Partial()]).flatten(0, 1)
        logits_tv = capped(F.linear(hidden_td, local_part(weight_vd)), self._soft_cap)
        largest_t = logits_tv.detach().amax(-1)
        dist.all_reduce(largest_t, op=dist.ReduceOp.MAX, group=self._mesh.get_group())
        logits_tv = logits_tv - largest_t.unsqueeze(-1)
        size = logits_tv.shape[-1]
        place_t = labels_bs.flatten() - self._mesh.get_local_rank() * size
        is_here_t = (place_t >= 0) & (place_t < size)
        picked_t = logits_tv.gather(-1, place_t.clamp(0, size - 1).unsqueeze(-1)).squeeze(-1)
        here = torch.stack((logits_tv.exp().sum(-1), torch.where(is_here_t, picked_t, 0.0)))
        total_t, target_t = summed(here, self._mesh)
        counts_t, log_sum_t = mask_bs.flatten() != 0, total_t.log()
        z_t = (log_sum_t + largest_t).square()
        return TokenSums(torch.where(counts_t, log_sum_t - target_t, 0.0).sum(), torch.where(counts_t, z_t, 0.0).sum())

    def scores(self, hidden_bsd: Tensor, weight_vd: Tensor, mask_bs: Tensor) -> Tensor:
        """See TokenLoss. Every rank of the group has them whole."""
        whole_bsd = gathered(hidden_bsd, self._mesh).to_local()
        part_nv = capped(F.linear(whole_bsd[mask_bs != 0], local_part(weight_vd)), self._soft_cap)
        return DTensor.from_local(part_nv, self._mesh, [Shard(1)]).full_tensor()


def apply_tensor_parallel(model: Decoder, mesh: DeviceMesh) -> None:
    """Cut `model` over the one axis of `mesh`. Routed experts are the expert axis's matter."""
    table = {**cuts(model.config), **model.own_cuts}
    plan = {
        name: _style(cut)
        for name, module in model.named_modules()
        if (cut := cut_of(name, table)) is not None and not isinstance(module, MixtureOfExperts | nn.Identity)
    } | {name: Gathered() for name, _ in model.named_modules() if name.endswith(".shared_key")}
    parallelize_module(model, mesh, plan, src_data_rank=None)
    if model.stage.is_last:
        weight = distribute_tensor(model.head.weight.detach(), mesh, [Shard(0)], src_data_rank=None)
        model.head.weight = nn.Parameter(weight)
        model.tie()
        model.token_loss = VocabularyParallelLoss(mesh, model.config.logit_soft_cap)


def gathered(part: Tensor, mesh: DeviceMesh) -> DTensor:
    """The whole sequence. Its gradient, whole or in terms of a sum, comes back summed and cut."""
    return DTensor.from_local(part, mesh, [Shard(_SEQUENCE)]).redistribute(placements=[Replicate()])


def _style(cut: Cut) -> ParallelStyle:
    match cut:
        case "vocabulary":
            return RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(_SEQUENCE))
        case "gathered":
            return Gathered()
        case "column":
            return ColwiseParallel()
        case "gathered_column":
            return ColwiseParallel(input_layouts=Shard(_SEQUENCE))
        case "row":
            return RowwiseParallel(output_layouts=Shard(_SEQUENCE))
        case "copied":
            return Copied()
