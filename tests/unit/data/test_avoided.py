"""Which sample is the n-th when some are left out: no other cut is touched, and there are as many as without."""

import numpy as np
import pytest

from firstlight.data.avoided import Avoided


def numbers(avoided: Avoided, cut: range) -> list[int]:
    return [int(one) for one in avoided.numbers(np.arange(cut.start, cut.stop), cut)]


def test_ranges_are_joined() -> None:
    assert Avoided([(5, 8), (1, 3), (2, 4), (8, 9), (7, 7)]).ranges == ((1, 4), (5, 9))
    assert Avoided([(1, 4)]).covers(2, 4)
    assert not Avoided([(1, 4)]).covers(2, 5)


def test_what_is_left_comes_sooner_and_the_first_ones_once_more() -> None:
    assert numbers(Avoided([(2, 4), (6, 7)]), range(8)) == [0, 1, 4, 5, 7, 0, 1, 4]


def test_a_range_across_two_cuts_shifts_each_by_its_own_part() -> None:
    avoided = Avoided([(4, 7)])
    assert numbers(avoided, range(6)) == [0, 1, 2, 3, 0, 1]
    assert numbers(avoided, range(6, 12)) == [7, 8, 9, 10, 11, 7]
    assert numbers(avoided, range(12, 14)) == [12, 13]


def test_what_is_still_to_come() -> None:
    avoided = Avoided([(2, 4)])
    assert [avoided.ahead(place, range(6)) for place in range(6)] == [0, 1, 4, 5, 6, 6]


def test_nothing_left() -> None:
    with pytest.raises(ValueError, match="all samples from 0 to 3 are left out"):
        Avoided([(0, 5)]).numbers(np.zeros(1, np.int64), range(4))
