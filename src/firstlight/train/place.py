"""Where a run is: its ranks, this process among them, its device and its folder."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from firstlight.base.log import get_logger
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

    def note_fault(self, line: Mapping[str, Any]) -> None:
        """Add a line to the ledger of faults, from the first rank; a disk that does not take it loses it."""
        if self.world.rank != 0:
            return
        try:
            with self.folder.faults.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": time.time(), **line}) + "\n")
        except OSError as error:
            get_logger().warning(f"{self.folder.faults}: {error}")
