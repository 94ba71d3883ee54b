"""Takes a run back to an earlier checkpoint when the guard says so, past the samples of the bad steps."""

import time
from dataclasses import dataclass

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.base.peers import together
from firstlight.config.rewind import RewindConfig
from firstlight.config.timeline import Timeline
from firstlight.resilience.verdict import Rewind, Stop
from firstlight.train.avoided_samples import AvoidedSamples, add_avoided
from firstlight.train.checkpointers import Checkpointers
from firstlight.train.place import Place
from firstlight.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class _Lost:
    """Until step `step` is done again, the run makes up for a rewind that was decided at `since` (monotonic)."""

    step: int
    to_step: int
    since: float


class Rewinds:
    """All ranks go back together: what they go by is the same on all of them."""

    def __init__(self, config: RewindConfig, timeline: Timeline, place: Place, kept: Checkpointers) -> None:
        self._config = config
        self._timeline = timeline
        self._place = place
        self._kept = kept
        self._lost: _Lost | None = None

    def take(self, verdict: Rewind, state: TrainState) -> Stop | None:
        """Go back; Stop when there is nothing to go back to, and the state is then as it was. Collective.

        The samples are left out on the disk before anything of the later steps is removed, so whatever ends the
        processes in between, the run goes on from before them. Raises NoCheckpointError when no checkpoint loads.
        """
        began, last = time.monotonic(), state.step
        samples = self._samples(verdict, state) if verdict.leaves_out_samples else range(0)
        if verdict.leaves_out_samples and not samples:
            return _stop(verdict, "its samples have been trained on before, when the data began once more")
        to_step = self._restore(verdict, state)
        if to_step is None:
            return _stop(verdict, f"there is no healthy checkpoint from before step {verdict.first_step}")
        samples = range(max(samples.start, state.data.first_ahead), samples.stop) if samples else samples
        together(self._place.peers, lambda: self._write(samples, last, to_step, verdict.reason))
        if samples:
            state.data.avoid(samples, verdict.reason)
        state.guard.num_rewinds += 1
        self._kept.remove_after(to_step)
        self._lost = _Lost(step=last, to_step=to_step, since=began)
        self._tell(self._lost, samples, verdict.reason)
        return None

    def _tell(self, lost: _Lost, samples: range, reason: str) -> None:
        seen = f"samples {samples.start} to {samples.stop - 1}" if samples else "no samples"
        get_logger().warning(f"rewound from step {lost.step} to step {lost.to_step}; {seen} are left out from here on")
        facts = {"to_step": lost.to_step, "first_sample": samples.start, "end_sample": samples.stop}
        without = f", without {seen}" if samples else ""
        self._place.events.add("rewind", lost.step, f"to step {lost.to_step}{without}: {reason}", facts)
        self._place.note_fault({"event": "rewind", "step": lost.step, **facts, "cause": reason, "action": "rewind"})

    def stepped(self, step: int) -> None:
        """Step `step` is done: a run that is as far as before has made up for its rewind."""
        lost = self._lost
        if lost is not None and step >= lost.step:
            self._lost = None
            costs = {"steps_lost": lost.step - lost.to_step, "seconds_lost": time.monotonic() - lost.since}
            self._place.note_fault({"event": "rewound", "step": lost.step, **costs})

    def _samples(self, verdict: Rewind, state: TrainState) -> range:
        """Of the bad steps, with the margins of the configuration."""
        first = max(verdict.first_step - 1 - self._config.steps_before, 0)
        begin = self._timeline.samples_before(first)
        end = self._timeline.samples_before(verdict.last_step + self._config.steps_after)
        samples = state.data.numbers_between(begin, end)
        return samples or state.data.numbers_between(self._timeline.samples_before(verdict.first_step - 1), end)

    def _restore(self, verdict: Rewind, state: TrainState) -> int | None:
        wished = verdict.first_step - (self._config.steps_before if verdict.leaves_out_samples else 0)
        on_disk = self._kept.on_disk
        step = on_disk.restore(state, before=wished)
        if step is None and wished < verdict.first_step:
            step = on_disk.restore(state, before=verdict.first_step)
        return step

    def _write(self, samples: range, step: int, to_step: int, reason: str) -> None:
        place = self._place
        if place.world.rank == 0:
            left_out = AvoidedSamples(
                time=time.time(),
                run=place.folder.identity,
                first=samples.start,
                end=samples.stop,
                step=step,
                to_step=to_step,
                reason=reason,
            )
            add_avoided(place.folder.avoided_samples, left_out)


def _stop(verdict: Rewind, why: str) -> Stop:
    reason = f"{verdict.reason}; it cannot rewind: {why}"
    return Stop(reason=reason, exit_code=FirstlightError.exit_code, is_state_sound=verdict.leaves_out_samples)
