"""What the guard can answer."""

from dataclasses import dataclass

from firstlight.base.errors import EXIT_PREEMPTED


@dataclass(frozen=True, kw_only=True)
class Proceed:
    """Go on."""


@dataclass(frozen=True, kw_only=True)
class Rewind:
    """Go back to the newest healthy checkpoint before step `first_step`, the first bad one of those up to `last_step`,
    and leave out the samples of the bad ones if they are to blame."""

    first_step: int
    last_step: int
    reason: str
    leaves_out_samples: bool = True


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Save the state, unless it cannot be trusted, and end with `exit_code`."""

    reason: str
    exit_code: int
    is_state_sound: bool = True

    @property
    def is_request(self) -> bool:
        """Whether it was asked for from outside; nothing is wrong with the run."""
        return self.exit_code == EXIT_PREEMPTED


Verdict = Proceed | Rewind | Stop
