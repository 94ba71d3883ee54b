"""What a rank may ask of all the others; rooms without torch decide together through it."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from firstlight.base.errors import FirstlightError

Result = TypeVar("Result")


class Peers(Protocol):
    """The ranks of the run. Every method is a collective: all ranks call it, in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def barrier(self) -> None:
        """Return once every rank has called."""

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sums over ranks, in float64; the same on every rank."""

    def all_true(self, value: bool, /) -> bool:
        """Whether `value` is true on every rank."""

    def any_true(self, value: bool, /) -> bool:
        """Whether `value` is true on some rank."""


class Alone:
    """The only rank of a run."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        return None

    def sum(self, values: Sequence[float]) -> list[float]:
        return [float(value) for value in values]

    def all_true(self, value: bool, /) -> bool:
        return value

    def any_true(self, value: bool, /) -> bool:
        return value


class PeerFailed(FirstlightError):
    """Another rank failed, and has said why; this one only ends, with the same exit code."""

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f"rank {rank} failed")
        self.exit_code = exit_code


def together(peers: Peers, act: Callable[[], Result]) -> Result:
    """`act()` on every rank, going on only when it failed on none. A collective.

    The first rank that failed raises its own FirstlightError, the others PeerFailed: what went wrong is said once.
    """
    result: Result | None = None
    failure: FirstlightError | None = None
    try:
        result = act()
    except FirstlightError as error:
        failure = error
    codes = [0.0] * peers.size
    codes[peers.rank] = float(failure.exit_code) if failure else 0.0
    failed = [(rank, int(code)) for rank, code in enumerate(peers.sum(codes)) if code]
    if not failed:
        return result  # type: ignore[return-value]  # act() returned it
    first, exit_code = failed[0]
    if failure is not None and first == peers.rank:
        raise failure
    raise PeerFailed(first, exit_code)
