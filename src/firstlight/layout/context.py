"""Which positions of a sequence each rank of a context group has. Pure arithmetic.

A ring of r ranks has 2r chunks, of which its rank i has the i-th from the front and the i-th from the back: under a
causal mask, all then have the same work. The ranks that deal out heads cut what one place of the ring has further.
"""

from firstlight.layout.mesh import Layout


def chunks_of(ring_place: int, ring_size: int, length: int) -> tuple[range, ...]:
    """The positions of one place of a ring over sequences of `length`: one or two ranges, the earlier first."""
    if ring_size == 1:
        return (range(length),)
    size = length // (2 * ring_size)
    last = 2 * ring_size - 1 - ring_place
    return range(ring_place * size, (ring_place + 1) * size), range(last * size, (last + 1) * size)


def positions_of(context_place: int, layout: Layout, length: int) -> tuple[range, ...]:
    """The positions of rank `context_place` of a context group, as ranges in their order.

    The rules made sure that `length` divides. The ranks that deal out heads are neighbours.
    """
    ring_place, head_place = divmod(context_place, layout.cp_heads)
    size = length // layout.cp
    begin, end = head_place * size, (head_place + 1) * size
    here: list[range] = []
    for chunk in chunks_of(ring_place, layout.cp_ring, length):
        here.append(chunk[max(begin, 0) : max(end, 0)])
        begin, end = begin - len(chunk), end - len(chunk)
    return tuple(part for part in here if part)
