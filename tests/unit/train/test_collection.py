"""The collector of reference cycles during a run: what was there is set aside, what is left on the way is found."""

import gc
import weakref

import pytest

from firstlight.train.collection import set_aside


class Cycle:
    """Something that only the collector can free."""

    def __init__(self) -> None:
        self.me = self


def test_what_was_there_is_not_looked_through_and_comes_back() -> None:
    before = weakref.ref(Cycle())
    with set_aside():
        assert gc.get_freeze_count() > 1000
        within = weakref.ref(Cycle())
        gc.collect()
        assert within() is None
        assert before() is not None
    gc.collect()
    assert before() is None


def test_a_run_that_fails_sets_nothing_aside() -> None:
    with pytest.raises(RuntimeError, match="ends"), set_aside():
        raise RuntimeError("ends")
    assert gc.get_freeze_count() == 0
