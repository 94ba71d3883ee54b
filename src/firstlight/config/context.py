"""The section of context parallelism: how attention sees the positions that other ranks hold."""

from typing import Annotated, Literal

from pydantic import Field

from firstlight.config.section import Count, Section


class RingContext(Section):
    """Keys and values travel round the group; each rank attends to them as they come by. Takes any number of heads."""

    kind: Literal["ring"] = "ring"


class AllToAllContext(Section):
    """Ranks exchange positions for heads before attention and back after it (Ulysses, arXiv:2309.14509): each has all
    positions of some heads. Degree x tensor_parallel divides the heads."""

    kind: Literal["all_to_all"] = "all_to_all"


class MixedContext(Section):
    """Neighbours exchange positions for heads, and keys and values travel among such groups (arXiv:2405.07719)."""

    kind: Literal["mixed"] = "mixed"
    all_to_all: Count
    """Neighbours that exchange positions for heads; context_parallel / this degree is the size of the ring."""


Context = Annotated[RingContext | AllToAllContext | MixedContext, Field(discriminator="kind")]


def head_degree(context: Context, context_parallel: int) -> int:
    """How many ranks of a context group deal out heads; the others make the ring."""
    match context:
        case RingContext():
            return 1
        case AllToAllContext():
            return context_parallel
        case MixedContext():
            return context.all_to_all
