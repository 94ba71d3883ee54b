"""Tells a rank that will not go on from one that is slow, by the signs of life of all."""

from collections.abc import Sequence
from dataclasses import dataclass

from firstlight.base.heartbeat import Beat
from firstlight.config.training import ResilienceConfig

_TIMES_THE_LONGEST = 5
"""A phase may last so many times as long as it ever did: evaluation of more sets, a full disk cache, a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """A rank that will not go on, and how that shows."""

    rank: int
    pid: int
    step: int
    """The step that it is in."""
    kind: str
    """"frozen" or "hung"."""
    what: str


def find_stuck(beats: Sequence[Beat], now: float, config: ResilienceConfig) -> Stuck | None:
    """The rank that holds up all others, if one does. `now` is of the clock of the beats."""
    frozen = [beat for beat in beats if now - beat.beaten > config.frozen_after_seconds]
    if frozen:
        first = min(frozen, key=lambda beat: beat.beaten)
        return _stuck(first, "frozen", f"no thread of it has run for {now - first.beaten:.1f} s")
    hung = [beat for beat in beats if now - beat.began > _limit(beat, config)]
    if not hung:
        return None
    behind = min(beats, key=lambda beat: beat.num_phases)
    seconds = now - behind.began
    others = "" if len(beats) == 1 else "; the others wait for it"
    if len(beats) > 1 and all(beat.num_phases == behind.num_phases for beat in beats):
        others = "; no rank is behind another, so they wait in a collective, or each for something else"
    return _stuck(behind, "hung", f"it has been in {behind.phase} for {seconds:.1f} s{others}")


def _limit(beat: Beat, config: ResilienceConfig) -> float:
    if beat.longest_seconds == 0:
        return config.first_phase_seconds
    return max(config.hung_after_seconds, _TIMES_THE_LONGEST * beat.longest_seconds)


def _stuck(beat: Beat, kind: str, how: str) -> Stuck:
    what = f"rank {beat.rank} (pid {beat.pid}) is {kind} in step {beat.step + 1}: {how}"
    return Stuck(rank=beat.rank, pid=beat.pid, step=beat.step + 1, kind=kind, what=what)
