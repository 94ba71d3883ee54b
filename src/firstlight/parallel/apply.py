"""Applies a layout to a model. The order of transformations is written here and nowhere else."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from firstlight.config.model import ModelConfig
from firstlight.config.training import RecomputeConfig
from firstlight.layout.mesh import AXES, Layout
from firstlight.models.decoder import Decoder
from firstlight.models.family import family_of, units_of
from firstlight.models.initialization import initial_slice
from firstlight.models.router import TopKRouter
from firstlight.parallel.device import gradient_sum_dtype


def build_parallel(
    config: ModelConfig, layout: Layout, recompute: RecomputeConfig, *, device: torch.device, seed: int
) -> Decoder:
    """The model of `config`, laid out over the ranks and initialised from `seed`.

    1. built without memory, 2. recomputation round each layer, 3. parameters sharded layer by layer, 4. memory for
    this rank's shards, 5. their initial values.
    """
    with torch.device("meta"):
        model = family_of(config).build(config)
    units = units_of(model)
    if recompute.kind == "full":
        apply_activation_checkpointing(model, check_fn=lambda module: module in units)
    if layout.world_size > 1:
        _shard(model, _mesh(layout, device), gradient_sum_dtype(device))
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


def sum_over_shards(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The sum over the ranks that hold different shards of the model's parameters, in place."""
    parameter = next(model.parameters())
    if not isinstance(parameter, DTensor):
        return lambda tensor: tensor
    group = parameter.device_mesh.get_group("dp_shard")

    def summed(tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, group=group)
        return tensor

    return summed


def _mesh(layout: Layout, device: torch.device) -> DeviceMesh:
    return init_device_mesh(device.type, (layout.dp_replicate, layout.dp_shard), mesh_dim_names=AXES)


def _shard(model: Decoder, mesh: DeviceMesh, sum_dtype: torch.dtype) -> None:
    mesh = mesh if mesh["dp_replicate"].size() > 1 else mesh["dp_shard"]
    for unit in units_of(model):
        fully_shard(unit, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=sum_dtype))
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=sum_dtype))
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is already divided by the counts of the whole global batch: gradients are sums.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # noqa: FBT003


@torch.no_grad()
def _initialise(model: Decoder, *, std: float, seed: int) -> None:
    for name, parameter in parameter_names(model).items():
        local, rows = _local_rows(parameter)
        local.copy_(initial_slice(name, parameter.shape, rows, std=std, seed=seed))
    for buffer in model.buffers():
        buffer.zero_()


def _local_rows(parameter: Tensor) -> tuple[Tensor, slice]:
    """This rank's part of a parameter, and which rows of the whole it is (shards are cut along the first dimension)."""
    if not isinstance(parameter, DTensor):
        return parameter, slice(None)
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return parameter.to_local(), slice(offset[0], offset[0] + shape[0])


def _plain_name(name: str) -> str:
    return name.replace("_checkpoint_wrapped_module.", "")
