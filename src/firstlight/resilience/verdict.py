"""What the guard can answer."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Proceed:
    """Go on."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Save the state and end with `exit_code`."""

    reason: str
    exit_code: int


Verdict = Proceed | Stop
