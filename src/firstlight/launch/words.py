"""What a supervisor of several nodes tells the one that leads, and what it is told."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from firstlight.base.heartbeat import Beat
from firstlight.launch.cause import Cause
from firstlight.launch.ledger import Fault
from firstlight.resilience.watchdog import Stuck


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def as_json(self) -> dict[str, Any]:
        """For the line."""
        return self.model_dump()


class Word(_Message):
    """How a node is. A node that was started again is another instance."""

    node: int
    count: int
    """Nodes of the run, as this one was told."""
    instance: str
    address: str
    """Where this node's supervisor listens."""
    job: str = ""
    """The run's start by all its supervisors; empty before a leader has named it."""
    round: int = 0
    """The last one that it has started ranks in."""
    party: tuple[int, ...] = ()
    """The nodes that took part in it."""
    leader: int = 0
    """The node that led it."""
    state: Literal["waits", "runs", "ended", "done", "leaves"] = "waits"
    cause: Cause | None = None
    """Why its ranks have ended."""
    exit_code: int = 0
    is_asked: bool = False
    """Whether it was asked to stop."""
    traces: str = ""
    """Where in the run's folder it has kept what its ranks were at."""
    beats: tuple[Beat, ...] = ()
    """Of its ranks in this round; times are seconds before now."""
    history: tuple[Fault, ...] = ()
    """All that it knows to have gone wrong in the run."""


class Order(_Message):
    """What a node is to do: wait for the others, run the ranks of a round, have them save and pause at a step's end,
    end them, or stop for good."""

    kind: Literal["wait", "run", "pause", "end", "stop"]
    leader: str
    """The instance that leads: another one knows nothing of the ranks that run."""
    job: str
    round: int
    addresses: dict[int, str]
    """Of all nodes that the leader knows."""
    party: tuple[int, ...] = ()
    """The nodes of the round, in the order of their ranks."""
    store: str = ""
    """Where the ranks of the round meet."""
    stuck: Stuck | None = None
    """The rank because of which they end."""
    traces: str = ""
    """Where in the run's folder every node keeps what its ranks were at then."""
    at_once: bool = False
    """End them without last words: they wait for a node that is gone."""
    message: str = ""
    """About the last failure, or why they pause."""
    exit_code: int = 0
    history: tuple[Fault, ...] = ()
