"""What ranks say to each other in one step: calls of one kind on one axis, and how many bytes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send", "receive"]


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """What a rank does in one step, and the bytes of its numbers."""

    sequence_length: int
    micro_batch_size: int
    micro_batches: int
    number_bytes: int = 4
    """Of parameters and activations."""
    sum_bytes: int = 4
    """Of gradients while they are summed; 8 on CPU."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """`calls` calls of one kind on one axis that serve one purpose, and their `bytes` together."""

    what: str
    kind: Kind
    axis: str
    calls: int
    bytes: int


def calls_of(what: str, kind: Kind, axis: str, calls: int, size: int) -> Traffic:
    """`calls` calls of `size` bytes each."""
    return Traffic(what=what, kind=kind, axis=axis, calls=calls, bytes=calls * size)


def joined(traffic: Iterable[Traffic]) -> list[Traffic]:
    """One for each purpose, kind and axis."""
    counts: Counter[tuple[str, Kind, str]] = Counter()
    sizes: Counter[tuple[str, Kind, str]] = Counter()
    for one in traffic:
        key = one.what, one.kind, one.axis
        counts[key] += one.calls
        sizes[key] += one.bytes
    return [
        Traffic(what=what, kind=kind, axis=axis, calls=counts[what, kind, axis], bytes=sizes[what, kind, axis])
        for what, kind, axis in counts
    ]
