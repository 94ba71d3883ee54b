"""The rules of context parallelism: positions and heads divide among the ranks that cut them."""

import math
from collections.abc import Iterator

from firstlight.config.broken import Broken
from firstlight.config.context import MixedContext, head_degree
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import sequence_lengths


def mixture_divides(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """The ranks that exchange positions for heads are cut out of the context group."""
    parallelism = config.parallelism
    degree, context = parallelism.context_parallel, parallelism.context
    if isinstance(context, MixedContext) and degree % context.all_to_all:
        usable = ", ".join(str(number) for number in range(1, degree + 1) if degree % number == 0)
        yield Broken(
            path=("parallelism", "context", "all_to_all"),
            message=f"parallelism.context.all_to_all = {context.all_to_all} does not divide context_parallel = "
            f"{degree}; use {usable}",
        )


def positions_divide(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Every rank has as many positions; a ring cuts each of its parts in two, one from the front and one from the
    back, and a tensor group cuts what its context rank has."""
    parallelism = config.parallelism
    degree, heads = parallelism.context_parallel, head_degree(parallelism.context, parallelism.context_parallel)
    if degree == 1 or degree % heads:
        return
    ring, within = degree // heads, heads * parallelism.tensor_parallel
    parts = ring * math.lcm(2, within) if ring > 1 else within
    for key, length in sequence_lengths(config).items():
        if length % parts == 0:
            continue
        nearest = max(1, round(length / parts)) * parts
        yield Broken(
            path=("parallelism", "context_parallel"),
            message=f"parallelism.context_parallel = {degree} with context.kind = {parallelism.context.kind} and "
            f"tensor_parallel = {parallelism.tensor_parallel} cuts sequences into {parts} parts, which do not divide "
            f"{key} = {length}; use a multiple of {parts}, such as {nearest}",
        )


def heads_divide(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Ranks that exchange positions for heads have as many heads each, of those that a tensor rank has."""
    parallelism, heads = config.parallelism, config.model.attention.num_attention_heads
    degree = head_degree(parallelism.context, parallelism.context_parallel)
    tensor = parallelism.tensor_parallel
    if degree == 1 or heads % (degree * tensor) == 0:
        return
    usable = [str(number) for number in range(1, heads + 1) if heads % (number * tensor) == 0] or ["1"]
    key = "context.all_to_all" if isinstance(parallelism.context, MixedContext) else "context_parallel"
    within = f" x tensor_parallel = {tensor}" if tensor > 1 else ""
    yield Broken(
        path=("parallelism", *key.split(".")),
        message=f"parallelism.{key} = {degree}{within} does not divide model.attention.num_attention_heads = {heads}, "
        f"which context.kind = {parallelism.context.kind} deals out; use {', '.join(usable)}, or kind ring",
    )


CONTEXT_RULES = (mixture_divides, positions_divide, heads_divide)
