"""What a precision cannot be combined with."""

from collections.abc import Iterator

from firstlight.config.broken import Broken
from firstlight.config.model import GroupedQueryAttention, ModelConfig, MoeFeedForward, MultiHeadLatentAttention
from firstlight.config.pipeline import SPLITS_BACKWARD
from firstlight.config.precision import Fp8Precision, Fp16Precision, parameter_type
from firstlight.config.schema import RunConfig

_TILE = 128


def loss_scale_can_back_off(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """A loss scale is found by steps that are not finite."""
    if isinstance(config.training.precision, Fp16Precision) and config.resilience.on_not_finite == "stop":
        yield Broken(
            path=("resilience", "on_not_finite"),
            message="resilience.on_not_finite = stop does not go with training.precision.kind = fp16, whose loss scale "
            "is lowered at steps that are not finite; use skip",
        )


def gradients_are_summed_in_full(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Gradients of weights that are left for later come together in the type of the parameters before they are
    summed."""
    parallelism, kind = config.parallelism, parameter_type(config.training.precision)
    schedule = parallelism.pipeline.schedule
    if kind != "fp32" and parallelism.pipeline_parallel > 1 and schedule in SPLITS_BACKWARD:
        yield Broken(
            path=("training", "precision"),
            message=f"training.precision.parameters = {kind} does not go with parallelism.pipeline.schedule = "
            f"{schedule}, which would add gradients of micro-batches in that type; use parameters fp32, or another "
            "schedule",
        )


def tiles_are_whole(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Ranks that cut a matrix have the tiles that one rank would have."""
    if not isinstance(config.training.precision, Fp8Precision):
        return
    parallelism = config.parallelism
    widths = {
        "tensor_parallel": _tensor_widths(config.model),
        "expert_tensor_parallel": _expert_widths(config.model),
    }
    for axis, sizes in widths.items():
        degree = getattr(parallelism, axis)
        for name, size in sizes.items():
            if degree > 1 and size % (_TILE * degree):
                yield Broken(
                    path=("parallelism", axis),
                    message=f"parallelism.{axis} = {degree} cuts {name} = {size} across the tiles of "
                    f"training.precision.kind = fp8, which are {_TILE} wide; use a degree that leaves each rank a "
                    f"multiple of {_TILE}, or precision bf16",
                )


def _tensor_widths(model: ModelConfig) -> dict[str, int]:
    """What tensor parallelism cuts, in features."""
    attention, feed_forward = model.attention, model.feed_forward
    heads = attention.num_attention_heads
    sizes: dict[str, int] = {}
    match attention:
        case GroupedQueryAttention():
            sizes["model.attention.num_attention_heads x head_dim"] = heads * attention.head_dim
            sizes["model.attention.num_key_value_heads x head_dim"] = attention.num_key_value_heads * attention.head_dim
        case MultiHeadLatentAttention():
            up = attention.qk_nope_head_dim + attention.v_head_dim
            sizes["model.attention.num_attention_heads x (qk_nope_head_dim + qk_rope_head_dim)"] = (
                heads * attention.qk_head_dim
            )
            sizes["model.attention.num_attention_heads x (qk_nope_head_dim + v_head_dim)"] = heads * up
            sizes["model.attention.num_attention_heads x v_head_dim"] = heads * attention.v_head_dim
    if feed_forward.intermediate_size is not None:
        sizes["model.feed_forward.intermediate_size"] = feed_forward.intermediate_size
    if isinstance(feed_forward, MoeFeedForward) and feed_forward.n_shared_experts:
        width = feed_forward.moe_intermediate_size * feed_forward.n_shared_experts
        sizes["model.feed_forward.moe_intermediate_size x n_shared_experts"] = width
    return sizes


def _expert_widths(model: ModelConfig) -> dict[str, int]:
    feed_forward = model.feed_forward
    if not isinstance(feed_forward, MoeFeedForward):
        return {}
    return {"model.feed_forward.moe_intermediate_size": feed_forward.moe_intermediate_size}


PRECISION_RULES = (loss_scale_can_back_off, gradients_are_summed_in_full, tiles_are_whole)
