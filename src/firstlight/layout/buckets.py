"""Many small tensors to few collectives."""

from collections.abc import Sequence

BUCKET_ELEMENTS = 2**26
"""Of the flat buffer in which gradients of copied parameters are summed: 256 MB in fp32."""


def buckets(sizes: Sequence[int], limit: int = BUCKET_ELEMENTS) -> list[range]:
    """Consecutive places of `sizes`, together at most `limit` elements, or one place that is larger; empty for none."""
    found: list[range] = []
    begin = held = 0
    for place, size in enumerate(sizes):
        if held + size > limit and place > begin:
            found.append(range(begin, place))
            begin, held = place, 0
        held += size
    return [*found, range(begin, len(sizes))] if sizes else []
