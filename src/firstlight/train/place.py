"""Where a run is: its ranks, this process among them, its device and its folder."""

from dataclasses import dataclass, field

import torch

from firstlight.base.peers import Peers
from firstlight.base.world import World
from firstlight.checkpoint.lock import FolderLock
from firstlight.models.registered import Registered
from firstlight.observe.events import EventLog
from firstlight.train.run_folder import DATA, Difference, RunFolder


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run is, as one of its processes sees it."""

    world: World
    peers: Peers
    device: torch.device
    folder: RunFolder
    lock: FolderLock
    accepted: frozenset[str] = frozenset()
    """Names of changes to the run's inputs that the user accepts."""
    own_model: Registered | None = None
    """A model class of the user's own."""
    events: EventLog = field(default_factory=lambda: EventLog(None))

    def accept_data(self, there: str, here: str) -> None:
        """Let changed training data pass; the first rank records it."""
        if self.world.rank == 0:
            self.folder.record_change(Difference(name=DATA, there=there[:16], here=here[:16]))
