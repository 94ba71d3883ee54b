"""Positions of the ranks of a context group: each position once, and the same work everywhere."""

import pytest

from firstlight.layout.context import chunks_of, positions_of

SPLITS = [(1, 1), (2, 1), (4, 1), (3, 1), (1, 2), (1, 3), (2, 2), (2, 3), (4, 2), (3, 4)]


def positions(ring_size: int, heads_size: int, length: int) -> list[list[int]]:
    spans = (
        positions_of(place, ring_size=ring_size, heads_size=heads_size, length=length)
        for place in range(ring_size * heads_size)
    )
    return [[position for span in spans_here for position in span] for spans_here in spans]


@pytest.mark.parametrize(("ring_size", "heads_size"), SPLITS)
def test_each_position_is_on_one_rank_in_order(ring_size: int, heads_size: int) -> None:
    by_rank = positions(ring_size, heads_size, 72)
    assert all(here == sorted(here) and len(here) == 72 // (ring_size * heads_size) for here in by_rank)
    assert sorted(position for here in by_rank for position in here) == list(range(72))


def test_a_ring_has_a_part_from_the_front_and_one_from_the_back() -> None:
    assert positions(2, 1, 8) == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert positions(1, 2, 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    # The neighbours that deal out heads have together what one place of the ring has.
    assert positions(2, 2, 8) == [[0, 1], [6, 7], [2, 3], [4, 5]]


@pytest.mark.parametrize("ring_size", [2, 3, 4, 8])
def test_all_places_of_a_ring_see_as_many_pairs_in_every_turn(ring_size: int) -> None:
    length = 4 * ring_size
    here = [[p for chunk in chunks_of(place, ring_size, length) for p in chunk] for place in range(ring_size)]
    for turn in range(ring_size):
        seen = {
            sum(key <= query for query in here[place] for key in here[(place - turn) % ring_size])
            for place in range(ring_size)
        }
        assert len(seen) == 1, f"turn {turn}: {seen}"


def test_an_odd_length_needs_no_ring() -> None:
    assert positions(1, 3, 9) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
