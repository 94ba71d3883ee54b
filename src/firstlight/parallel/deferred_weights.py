"""Lets the linear layers and experts of a stage leave the gradients of their weights for later.

torch's schedules can split the backward pass of any graph, but lose the gradient of what does not depend on the input
of the stage (torch 2.13: the norm of the embedding in multi-token prediction). They also take a builder of that work.
"""

from functools import partial

from torch import Tensor, nn

from firstlight.models.decoder import Decoder
from firstlight.models.family import units_of
from firstlight.models.moe import Experts
from firstlight.ops.deferred import WeightGradients, deferred_grouped_linear, deferred_linear


def defer_weight_gradients(model: Decoder, store: WeightGradients) -> None:
    """Keep in `store` what the layers of `model` leave. Norms, router, embedding and head leave nothing."""
    for unit in units_of(model):
        for module in unit.modules():
            if isinstance(module, nn.Linear):
                setattr(module, "forward", partial(_linear, module, store))  # noqa: B010
            elif isinstance(module, Experts):
                module.product = partial(deferred_grouped_linear, store=store)


def _linear(module: nn.Linear, store: WeightGradients, x: Tensor) -> Tensor:
    return deferred_linear(x, module.weight, module.bias, store)
