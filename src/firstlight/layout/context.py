"""Which positions of a sequence each rank of a context group has. Pure arithmetic.

A ring of r ranks has 2r chunks, of which its rank i has the i-th from the front and the i-th from the back: under a
causal mask, all then have the same work. The ranks that deal out heads cut what one place of the ring has further.
"""


def chunks_of(ring_place: int, ring_size: int, length: int) -> tuple[range, ...]:
    """The positions of one place of a ring over sequences of `length`: one or two ranges, the earlier first."""
    if ring_size == 1:
        return (range(length),)
    size = length // (2 * ring_size)
    last = 2 * ring_size - 1 - ring_place
    return range(ring_place * size, (ring_place + 1) * size), range(last * size, (last + 1) * size)


def positions_of(place: int, *, ring_size: int, heads_size: int, length: int) -> tuple[range, ...]:
    """The positions of rank `place` of a context group, as ranges in their order.

    `heads_size` neighbours of each place of the ring deal out heads. The rules made sure that `length` divides.
    """
    ring_place, heads_place = divmod(place, heads_size)
    size = length // (ring_size * heads_size)
    begin, end = heads_place * size, (heads_place + 1) * size
    here: list[range] = []
    for chunk in chunks_of(ring_place, ring_size, length):
        here.append(chunk[max(begin, 0) : max(end, 0)])
        begin, end = begin - len(chunk), end - len(chunk)
    return tuple(part for part in here if part)
