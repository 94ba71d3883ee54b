"""What a choice of kernel cannot be combined with: a layout or a precision that has an operator of its own."""

from collections.abc import Iterator

from firstlight.base.causal_blocks import MAX_LENGTH
from firstlight.config.broken import Broken
from firstlight.config.model import GroupedQueryAttention, MoeFeedForward
from firstlight.config.pipeline import SPLITS_BACKWARD
from firstlight.config.precision import PRODUCT_TYPES
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import sequence_lengths

_ROW_BYTES = 16


def attention_kernel_is_used(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Ranks that share a sequence have attention of their own."""
    kernel, degree = config.kernels.attention, config.parallelism.context_parallel
    if kernel != "auto" and degree > 1:
        yield _broken("attention", kernel, f"parallelism.context_parallel = {degree}, which has its own")
    if kernel != "blocks":
        return
    attention, kind = config.model.attention, config.training.precision.kind
    if kind != "fp32":
        yield _broken("attention", kernel, f"training.precision.kind = {kind}; blocks take fp32")
    if isinstance(attention, GroupedQueryAttention) and attention.window is not None:
        yield _broken("attention", kernel, "model.attention.window, which is computed in blocks of its own")
    sinks = isinstance(attention, GroupedQueryAttention) and attention.has_sinks
    for key, length in sequence_lengths(config).items():
        if length + sinks > MAX_LENGTH:
            yield _broken("attention", kernel, f"{key} = {length}; blocks take {MAX_LENGTH - sinks} positions")


def experts_kernel_is_used(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Products in 8 bits and those that leave the gradients of weights for later are made in one way."""
    kernel, parallelism = config.kernels.experts, config.parallelism
    if kernel == "auto":
        return
    feed_forward, kind = config.model.feed_forward, config.training.precision.kind
    if not isinstance(feed_forward, MoeFeedForward):
        yield _broken("experts", kernel, f"model.feed_forward.kind = {feed_forward.kind}, which has none")
        return
    if kind == "fp8":
        yield _broken("experts", kernel, "training.precision.kind = fp8, which has its own")
    if parallelism.pipeline_parallel > 1 and parallelism.pipeline.schedule in SPLITS_BACKWARD:
        schedule = parallelism.pipeline.schedule
        yield _broken("experts", kernel, f"parallelism.pipeline.schedule = {schedule}, which has its own")
    if kernel != "grouped_mm":
        return
    if PRODUCT_TYPES[kind] == "fp16":
        yield _broken("experts", kernel, f"training.precision.kind = {kind}; grouped_mm takes fp32 and bf16")
    number = 4 if PRODUCT_TYPES[kind] is None else 2
    widths = {
        "model.hidden_size": config.model.hidden_size,
        "model.feed_forward.moe_intermediate_size": feed_forward.moe_intermediate_size
        // parallelism.expert_tensor_parallel,
    }
    for name, width in widths.items():
        if width * number % _ROW_BYTES:
            needed = f"grouped_mm takes rows of multiples of {_ROW_BYTES // number} numbers"
            yield _broken("experts", kernel, f"{name} = {width} of a rank; {needed}")


def loss_kernel_is_used(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """A vocabulary that is cut has a loss of its own, and some models need the logits."""
    kernel, model, degree = config.kernels.loss, config.model, config.parallelism.tensor_parallel
    if kernel != "auto" and degree > 1:
        yield _broken("loss", kernel, f"parallelism.tensor_parallel = {degree}, which has its own")
    if kernel != "linear_cross_entropy":
        return
    if model.z_loss > 0:
        yield _broken("loss", kernel, f"model.z_loss = {model.z_loss:g}, which needs the logits")
    if model.logit_soft_cap is not None:
        yield _broken("loss", kernel, f"model.logit_soft_cap = {model.logit_soft_cap:g}, which needs the logits")


def _broken(operator: str, kernel: str, reason: str) -> Broken:
    message = f"kernels.{operator} = {kernel} does not go with {reason}; use auto"
    return Broken(path=("kernels", operator), message=message)


KERNEL_RULES = (attention_kernel_is_used, experts_kernel_is_used, loss_kernel_is_used)
