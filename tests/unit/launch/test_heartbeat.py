"""Signs of life: what a rank writes is what its launcher reads."""

import os
import time
from pathlib import Path

from firstlight.base.heartbeat import BEAT_SECONDS, Heart, read_beats
from firstlight.config.training import ResilienceConfig
from firstlight.resilience.watchdog import find_stuck


def test_a_rank_says_where_it_is(tmp_path: Path) -> None:
    heart = Heart(tmp_path, rank=3)
    with heart.beating(step=7):
        with heart.phase("data"):
            time.sleep(0.02)
        heart.stepped(8)
        with heart.phase("data"):
            (beat,) = read_beats(tmp_path)
            assert (beat.rank, beat.pid, beat.first_step, beat.step, beat.phase) == (3, os.getpid(), 7, 8, "data")
            assert 0.02 <= beat.longest_seconds < 5
            assert beat.num_phases == 3
            assert beat.began <= beat.beaten <= time.monotonic()


def test_a_thread_beats_while_the_main_one_waits(tmp_path: Path) -> None:
    heart = Heart(tmp_path, rank=0)
    with heart.beating(step=0), heart.phase("forward_backward"):
        (before,) = read_beats(tmp_path)
        time.sleep(4 * BEAT_SECONDS)
        (after,) = read_beats(tmp_path)
    assert after.beaten > before.beaten
    assert after.began == before.began


def test_how_long_a_save_has_lasted_says_nothing_of_the_next(tmp_path: Path) -> None:
    heart = Heart(tmp_path, rank=0)
    with heart.beating(step=0):
        for _ in range(2):
            with heart.phase("checkpoint", is_steady=False):
                (beat,) = read_beats(tmp_path)
                assert beat.longest_seconds == 0
    config = ResilienceConfig(frozen_after_seconds=1000, hung_after_seconds=10, first_phase_seconds=100)
    assert find_stuck([beat], beat.began + 50, config) is None
    assert find_stuck([beat], beat.began + 101, config) is not None


def test_the_last_sign_stays_for_the_launcher(tmp_path: Path) -> None:
    heart = Heart(tmp_path, rank=0)
    with heart.beating(step=4):
        heart.stepped(5)
    (last,) = read_beats(tmp_path)
    assert last.step == 5
    assert find_stuck([last], time.monotonic() + 10**6, ResilienceConfig()) is None


def test_nobody_listens_to_a_rank_without_a_launcher() -> None:
    heart = Heart(None, rank=0)
    with heart.beating(step=0), heart.phase("data"):
        heart.stepped(1)
