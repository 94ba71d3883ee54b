"""Applies a layout to a model. The order of transformations is written here and nowhere else."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from firstlight.config.model import ModelConfig
from firstlight.config.training import RecomputeConfig
from firstlight.layout.mesh import Layout
from firstlight.models.decoder import Decoder
from firstlight.models.family import family_of, units_of
from firstlight.models.initialization import initial_slice
from firstlight.models.moe import MixtureOfExperts
from firstlight.models.router import TopKRouter
from firstlight.parallel.context import apply_context_parallel
from firstlight.parallel.device import gradient_sum_dtype
from firstlight.parallel.expert_exchange import place_experts
from firstlight.parallel.meshes import Meshes
from firstlight.parallel.parts import measure_whole_sequences
from firstlight.parallel.tensor import apply_tensor_parallel


def build_parallel(
    config: ModelConfig, layout: Layout, recompute: RecomputeConfig, *, device: torch.device, seed: int
) -> Decoder:
    """The model of `config`, laid out over the ranks and initialised from `seed`.

    1. built without memory, 2. experts dealt out, 3. the rest cut over tensor groups, 4. sequences cut over context
    groups, 5. recomputation round each layer, 6. parameters sharded layer by layer, 7. memory for this rank's shards,
    8. their initial values.
    """
    with torch.device("meta"):
        model = family_of(config).build(config)
    meshes = Meshes.of(layout, device) if layout.world_size > 1 else None
    if meshes is not None and layout.ep > 1:
        for mixture in _mixtures(model):
            place_experts(mixture, meshes.experts["ep"])
    if meshes is not None and layout.tp > 1:
        apply_tensor_parallel(model, meshes.parameters["tp"])
    if meshes is not None and meshes.context is not None:
        apply_context_parallel(model, meshes.context)
    if meshes is not None:
        measure_whole_sequences(model, meshes.of_parts())
    units = units_of(model)
    if recompute.kind == "full":
        apply_activation_checkpointing(model, check_fn=lambda module: module in units)
    if meshes is not None:
        _shard(model, meshes, gradient_sum_dtype(device))
    model.allocate(device)
    _initialise(model, std=config.initializer_range, seed=seed)
    return model


def parameter_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters under their plain names, without what wrappers put in between."""
    return {_plain_name(name): parameter for name, parameter in model.named_parameters()}


def buffer_names(model: nn.Module) -> dict[str, Tensor]:
    """Persistent buffers under their plain names."""
    return {_plain_name(name): buffer for name, buffer in model.named_buffers()}


def routers(model: nn.Module) -> dict[str, TopKRouter]:
    """The routers of the model's mixture layers, under the layers' plain names."""
    return {
        _plain_name(name).removesuffix(".feed_forward.router"): module
        for name, module in model.named_modules()
        if isinstance(module, TopKRouter)
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


def _shard(model: Decoder, meshes: Meshes, sum_dtype: torch.dtype) -> None:
    policy = MixedPrecisionPolicy(reduce_dtype=sum_dtype)
    if meshes.have_experts_apart():
        for mixture in _mixtures(model):
            fully_shard(mixture.experts, mesh=meshes.expert_sharding(), mp_policy=policy)
    for unit in units_of(model):
        fully_shard(unit, mesh=meshes.sharding(), mp_policy=policy)
    fully_shard(model, mesh=meshes.sharding(), mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is already divided by the counts of the whole global batch: gradients are sums.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # noqa: FBT003


@torch.no_grad()
def _initialise(model: Decoder, *, std: float, seed: int) -> None:
    for name, parameter in parameter_names(model).items():
        local, (rows, *others) = _block(parameter)
        values = initial_slice(name, parameter.shape, rows, std=std, seed=seed)
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
