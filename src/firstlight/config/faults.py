"""A fault that is planted on purpose: what happens, to whom, and when."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from firstlight.config.section import Count, NotNegative, Section

FaultKind = Literal[
    "kill",
    "stop",
    "segfault",
    "hold_interpreter",
    "raise",
    "hang",
    "slow",
    "not_finite",
    "spike",
    "flip_bit",
    "miscompute",
    "keep_miscomputing",
]

KINDS: tuple[str, ...] = get_args(FaultKind)


class PlantedFault(Section):
    """`kind` happens to `rank` in step `step`."""

    kind: FaultKind
    """kill, stop (SIGSTOP), segfault: of the process; hold_interpreter: no thread of it runs; raise: a bug; hang: it
    waits for ever; slow: it waits `seconds`; not_finite, spike, flip_bit: a gradient, all of them times 1e4, one bit of
    a weight; miscompute, keep_miscomputing: what a layer gives is wrong, once, or in the whole step."""
    rank: Annotated[int, Field(ge=0)] = 0
    step: Count
    seconds: NotNegative = 1
    """For `slow`: how long."""
