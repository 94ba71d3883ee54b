"""Each rank's own work is compared; the first rank says which is slow."""

from pathlib import Path

import pytest
import torch

from firstlight.base.world import World
from firstlight.checkpoint.lock import FolderLock
from firstlight.observe.events import EventLog, read_events
from firstlight.parallel.layer_clock import LayerClock
from firstlight.resilience.stragglers import Stragglers
from firstlight.train.pace import Pace
from firstlight.train.place import Place
from firstlight.train.run_folder import RunFolder
from tests.unit.resilience.peers import ThreadPeers, on_ranks

SLOW_FROM, STEPS = 9, 40


class Told(LayerClock):
    """A clock that says what it is told."""

    told = 0.0

    def seconds(self) -> float:
        return self.told


def test_the_slow_rank_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def rank(peers: ThreadPeers) -> None:
        place = Place(
            world=World(rank=peers.rank, size=3),
            peers=peers,
            device=torch.device("cpu"),
            folder=RunFolder(path=tmp_path),
            lock=FolderLock(tmp_path),
            events=EventLog(tmp_path / "events.jsonl" if peers.rank == 0 else None),
        )
        clock = Told(stages=[], device=torch.device("cpu"))
        pace = Pace(clock, Stragglers(1.5, [0, 0, 0]), place)
        for step in range(1, STEPS + 1):
            with pace.fetching():
                clock.told = 5.0 if peers.rank == 2 and step >= SLOW_FROM else 2.0
            pace.computed(step)

    assert on_ranks(3, rank) == [None] * 3
    (event,) = read_events(tmp_path / "events.jsonl")
    assert (event.kind, event.facts["rank"]) == ("alert", 2)
    assert event.step - SLOW_FROM <= 20
    text = "rank 2 is slow: it takes 5000.0 ms a step for fetching data (0.0) and for its layers' forward passes"
    assert event.text == f"{text}, the others 2000.0"
    assert f"step {event.step}: {text}" in caplog.text
    assert '"event": "slow_rank"' in (tmp_path / "faults.jsonl").read_text()
