"""Lets the linear layers and experts of a model multiply in 8 bits, from outside.

A tensor group's rank quantises what it has: input features or output features of a layer, in tiles of their own.
"""

from functools import partial

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from firstlight.models.decoder import Decoder, MtpLayer
from firstlight.models.family import units_of
from firstlight.models.moe import Experts
from firstlight.ops.deferred import WeightGradients
from firstlight.ops.fp8 import Fp8Recipe
from firstlight.ops.fp8_linear import fp8_grouped_linear, fp8_linear


def use_fp8(model: Decoder, recipe: Fp8Recipe, store: WeightGradients | None = None) -> None:
    """Embedding, head, norms, routers, attention itself and the projection of multi-token prediction stay as they are.
    With a `store` gradients of weights are kept there."""
    for unit in units_of(model):
        high = unit.projection if isinstance(unit, MtpLayer) else None
        for module in unit.modules():
            if isinstance(module, nn.Linear) and module is not high:
                setattr(module, "forward", partial(_linear, module, recipe, store))  # noqa: B010
            elif isinstance(module, Experts):
                module.product = partial(fp8_grouped_linear, recipe=recipe, store=store)


def _linear(module: nn.Linear, recipe: Fp8Recipe, store: WeightGradients | None, x: Tensor) -> Tensor:
    weight_od, bias_o = module.weight, module.bias
    if not isinstance(weight_od, DTensor):
        return fp8_linear(x, weight_od, bias_o, recipe, store)
    assert isinstance(x, DTensor), "what a cut layer reads lies on its mesh"
    (cut,) = weight_od.placements
    assert isinstance(cut, Shard), "a copy is seen as a plain tensor"
    # By rows each rank gives its output features, of which the input's gradient is a sum; by columns a part of the sum.
    (is_by_rows, last) = cut.dim == 0, x.ndim - 1
    given: Placement = Replicate() if is_by_rows else Shard(last)
    wanted: Placement = Partial() if is_by_rows else Shard(last)
    here = x.redistribute(placements=[given]).to_local(grad_placements=[wanted])
    out_here = fp8_linear(here, weight_od.to_local(), None, recipe, store)
    out: Tensor = DTensor.from_local(out_here, x.device_mesh, [Shard(last) if is_by_rows else Partial()])
    return _with_bias(out, bias_o)


def _with_bias(out: Tensor, bias_o: Tensor | None) -> Tensor:
    return out if bias_o is None else out + bias_o.to(out.dtype)
