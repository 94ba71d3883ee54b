"""A slow rank is named once, after two windows; chance, pauses and other kinds of work are no slowness."""

import random

from firstlight.resilience.stragglers import WINDOW, Slow, Stragglers, typical


def test_a_slow_rank_is_named_once_and_when_it_has_ended() -> None:
    one = Stragglers(1.5, [0, 0, 0])
    seen = [one.see([1.0, 1.1, value], 3.0) for value in (1.0, 2.2, 2.2, 2.2, 1.0, 1.0)]
    slow = Slow(rank=2, seconds=2.2, usual_seconds=1.05)
    ended = Slow(rank=2, seconds=1.0, usual_seconds=1.05, has_ended=True)
    assert seen == [[], [], [slow], [], [ended], []]


def test_one_window_is_not_enough() -> None:
    one = Stragglers(1.5, [0, 0])
    assert [one.see([1.0, value], 3.0) for value in (2.2, 1.0, 2.2, 1.0)] == [[]] * 4


def test_what_hardly_matters_is_not_told() -> None:
    one = Stragglers(1.5, [0, 0])
    assert [one.see([0.01, 0.05], 1.0) for _ in range(3)] == [[]] * 3


def test_ranks_with_other_work_are_not_compared() -> None:
    one = Stragglers(1.5, [0, 0, 1])
    assert [one.see([1.0, 1.0, 9.0], 12.0) for _ in range(3)] == [[]] * 3


def test_a_window_without_its_longest_pause() -> None:
    assert typical([1.0] * 5 + [60.0]) == 1.0
    assert typical([1.0, 3.0] * 3) == 9 / 5
    assert typical([2.0]) == 0.0


def test_named_within_twenty_steps_and_no_false_alarm_in_ten_thousand() -> None:
    """Steps that differ by a fifth (standard deviation), and one in fifty that takes ten times as long."""
    source = random.Random(0)

    def seconds(factor: float = 1.0) -> float:
        value = factor * max(source.gauss(1.0, 0.2), 0.1)
        return 10 * value if source.random() < 0.02 else value

    quiet = Stragglers(1.5, [0] * 4)
    windows = [[typical([seconds() for _ in range(WINDOW)]) for _ in range(4)] for _ in range(10_000 // WINDOW)]
    alarms = sum(len(quiet.see(window, 3.0)) for window in windows)
    assert alarms == 0
    for trial in range(100):
        one = Stragglers(1.5, [0] * 4)
        named = None
        for step in range(1, 61):
            if step % WINDOW == 0:
                begin = 20 + trial % WINDOW
                rows = [
                    [seconds(2.0 if rank == 3 and at >= begin else 1.0) for at in range(step - 5, step + 1)]
                    for rank in range(4)
                ]
                news = one.see([typical(row) for row in rows], 6.0)
                if news and named is None:
                    named = (news[0].rank, step - begin)
        assert named is not None
        assert named[0] == 3
        assert named[1] <= 20
