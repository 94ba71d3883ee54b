"""Applies a layout to a model. The order of transformations is written here and nowhere else."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from firstlight.config.model import ModelConfig
from firstlight.config.recompute import LayerRange, NoRecompute, Recompute
from firstlight.layout.mesh import Layout
from firstlight.layout.parameters import sharded_dim
from firstlight.layout.stages import Stage
from firstlight.models.attention import GroupedQuery, MultiHeadLatent
from firstlight.models.decoder import Decoder
from firstlight.models.family import Builder, build_model, units_of
from firstlight.models.initialization import initial_slice
from firstlight.models.moe import MixtureOfExperts
from firstlight.models.router import TopKRouter
from firstlight.ops.deferred import WeightGradients
from firstlight.ops.fp8 import Fp8Recipe
from firstlight.parallel.arithmetic import AS_KEPT, Arithmetic
from firstlight.parallel.context import apply_context_parallel
from firstlight.parallel.deferred_weights import defer_weight_gradients
from firstlight.parallel.device import gradient_sum_dtype
from firstlight.parallel.embedding_copy import is_copy
from firstlight.parallel.experts import place_experts
from firstlight.parallel.fp8_layers import use_fp8
from firstlight.parallel.host_activations import offload_activations
from firstlight.parallel.meshes import Meshes
from firstlight.parallel.parts import measure_whole_sequences
from firstlight.parallel.recompute import apply_recompute, layers_in
from firstlight.parallel.tensor import apply_tensor_parallel


@dataclass(frozen=True, kw_only=True)
class LaidOut:
    """A model over the ranks of a layout: this rank's stages in ascending order, and the group of ranks that has all
    stages. Without a pipeline there is one stage, the whole model, and no group."""

    stages: list[Decoder]
    pipeline_group: dist.ProcessGroup | None = None
    weight_gradients: WeightGradients | None = None
    """What the backward passes of a schedule that splits them leave for later."""


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What becomes of activations and gradients: layers that compute anew, layers whose activations wait in host
    memory, and whether gradients of weights are left for later."""

    recompute: Recompute = NoRecompute()
    offloaded: LayerRange | None = None
    splits_backward: bool = False


def build_parallel(
    config: ModelConfig,
    layout: Layout,
    keeping: Keeping,
    *,
    stages: Sequence[Stage] = (),
    device: torch.device,
    seed: int,
    arithmetic: Arithmetic = AS_KEPT,
    build: Builder = build_model,
) -> LaidOut:
    """The model of `config`, laid out over the ranks and initialised from `seed`; of a pipeline the `stages` here.

    Parameters of another type than the one in which they are kept are FSDP's matter, also on one rank: it needs a
    process group then.
    """
    model = lay_out(config, layout, keeping, stages=stages, device=device, arithmetic=arithmetic, build=build)
    for stage in model.stages:
        stage.allocate(device)
        _initialise(stage, std=config.initializer_range, seed=seed)
    return model


def lay_out(
    config: ModelConfig,
    layout: Layout,
    keeping: Keeping,
    *,
    stages: Sequence[Stage] = (),
    device: torch.device,
    arithmetic: Arithmetic = AS_KEPT,
    build: Builder = build_model,
) -> LaidOut:
    """The same before it has memory: its parameters are on the meta device, in the shapes that this rank will hold."""
    is_sharded = layout.world_size > 1 or arithmetic.parameter_dtype is not None
    meshes = Meshes.of(layout, device) if is_sharded else None
    store = WeightGradients() if keeping.splits_backward else None
    decoders = []
    for stage in stages or (None,):
        with torch.device("meta"):
            model = build(config, stage)
        _replace_products(model, store, arithmetic.fp8)
        _transform(model, meshes, keeping)
        if meshes is not None:
            policy = MixedPrecisionPolicy(
                param_dtype=arithmetic.parameter_dtype,
                reduce_dtype=gradient_sum_dtype(device),
                cast_forward_inputs=False,
            )
            _shard(model, meshes, policy, reshards=layout.sharded == "all")
        decoders.append(model)
    group = None if meshes is None else meshes.pipeline_group()
    return LaidOut(stages=decoders, pipeline_group=group, weight_gradients=store)


def _replace_products(model: Decoder, store: WeightGradients | None, fp8: Fp8Recipe | None) -> None:
    """2. products in 8 bits, or that leave the gradients of weights for later, or both; 1. was to build it."""
    if store is not None:
        defer_weight_gradients(model, store)
    if fp8 is not None:
        use_fp8(model, fp8, store)


def _transform(model: Decoder, meshes: Meshes | None, keeping: Keeping) -> None:
    """3. experts dealt out and cut, 4. the rest cut over tensor groups, 5. sequences cut over context groups,
    6. recomputation round each layer and offloading round that. Parameters sharded layer by layer, memory for this
    rank's shards and their initial values follow.
    """
    if meshes is not None and (mesh := meshes.of_experts()) is not None:
        for mixture in _mixtures(model):
            place_experts(mixture, mesh)
    if meshes is not None and meshes.parameters["tp"].size() > 1:
        apply_tensor_parallel(model, meshes.parameters["tp"])
    if meshes is not None and meshes.context is not None:
        apply_context_parallel(model, meshes.context)
    if meshes is not None:
        measure_whole_sequences(model, meshes.of_parts())
    apply_recompute(model, keeping.recompute)
    if keeping.offloaded is not None:
        offload_activations(model, layers_in(model, keeping.offloaded))


def parameter_names(*stages: Decoder) -> dict[str, nn.Parameter]:
    """The parameters that `stages` own under their plain names, without what wrappers put in between."""
    return {
        plain: parameter
        for stage in stages
        for name, parameter in stage.named_parameters()
        if not is_copy(stage, plain := _plain_name(name))
    }


def buffer_names(*stages: Decoder) -> dict[str, Tensor]:
    """Persistent buffers under their plain names."""
    return {_plain_name(name): buffer for stage in stages for name, buffer in stage.named_buffers()}


def routers(*stages: Decoder) -> dict[str, TopKRouter]:
    """The routers of the mixture layers, under the layers' plain names."""
    return {
        _plain_name(name).removesuffix(".feed_forward.router"): module
        for stage in stages
        for name, module in stage.named_modules()
        if isinstance(module, TopKRouter)
    }


def attentions(*stages: Decoder) -> dict[str, GroupedQuery | MultiHeadLatent]:
    """The attention of each layer, under the layers' plain names."""
    return {
        _plain_name(name).removesuffix(".attention"): module
        for stage in stages
        for name, module in stage.named_modules()
        if isinstance(module, GroupedQuery | MultiHeadLatent)
    }


def copies_in(layout: Layout) -> Callable[[Tensor], int]:
    """How many ranks hold the block of a tensor that this rank holds."""

    def copies(tensor: Tensor) -> int:
        if not isinstance(tensor, DTensor):
            return layout.stage_size
        mesh, placements = tensor.device_mesh, tensor.placements
        blocks = math.prod(mesh.size(axis) for axis, place in enumerate(placements) if not place.is_replicate())
        return layout.stage_size // blocks

    return copies


def _mixtures(model: nn.Module) -> list[MixtureOfExperts]:
    return [module for module in model.modules() if isinstance(module, MixtureOfExperts)]


def _shard(model: Decoder, meshes: Meshes, policy: MixedPrecisionPolicy, *, reshards: bool) -> None:
    units: list[tuple[nn.Module, DeviceMesh]] = [(unit, meshes.sharding()) for unit in units_of(model)]
    if meshes.have_experts_apart():
        units = [(mixture.experts, meshes.expert_sharding()) for mixture in _mixtures(model)] + units
    for unit, mesh in units:
        fully_shard(
            unit, mesh=mesh, mp_policy=policy, reshard_after_forward=reshards, shard_placement_fn=_placement(mesh)
        )
    fully_shard(model, mesh=meshes.sharding(), mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is already divided by the counts of the whole global batch: gradients are sums.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # noqa: FBT003


def _placement(mesh: DeviceMesh) -> Callable[[nn.Parameter], Shard]:
    """The dimension of a parameter that is sharded over the last axis of `mesh`."""

    def placement(parameter: nn.Parameter) -> Shard:
        block = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        return Shard(sharded_dim(block.shape, mesh.size(mesh.ndim - 1)))

    return placement


@torch.no_grad()
def _initialise(model: Decoder, *, std: float, seed: int) -> None:
    for name, parameter in model.named_parameters():
        local, (rows, *others) = _block(parameter)
        values = initial_slice(_plain_name(name), parameter.shape, rows, std=std, seed=seed)
        local.copy_(values[(slice(None), *others)])
    for buffer in model.buffers():
        buffer.zero_()


def _block(parameter: Tensor) -> tuple[Tensor, list[slice]]:
    """This rank's part of a parameter, and where in the whole it is."""
    if not isinstance(parameter, DTensor):
        return parameter, [slice(None)] * parameter.ndim
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return parameter.to_local(), [slice(start, start + size) for start, size in zip(offset, shape, strict=True)]


def _plain_name(name: str) -> str:
    return name.replace("_checkpoint_wrapped_module.", "")
