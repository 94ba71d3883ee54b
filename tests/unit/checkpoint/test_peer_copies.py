"""Snapshots of several nodes: what one has lost comes from its peer, and what nobody has is passed over."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from firstlight.checkpoint import peer_copies
from firstlight.checkpoint.checkpointer import Checkpointer, Role
from firstlight.checkpoint.memory import MemoryDisk, rescue_share
from firstlight.checkpoint.peer_copies import PeerCopies
from firstlight.checkpoint.step_folder import candidates
from firstlight.config.training import CheckpointConfig
from tests.unit.checkpoint.state import MODEL_FILE, State, blank, is_state_of, saved
from tests.unit.resilience.peers import ThreadPeers, on_ranks

NODES = 3
FILES = {
    name.replace("-of-00001", f"-of-{NODES:05d}") for name in (MODEL_FILE, MODEL_FILE.replace("model", "optimizer"))
}
"""The first rank writes them; here tensors are whole on every rank."""


@dataclass(frozen=True, kw_only=True)
class ThreadCarrier:
    """Carries between ranks that are threads."""

    peers: ThreadPeers

    @property
    def rank(self) -> int:
        return self.peers.rank

    @property
    def size(self) -> int:
        return self.peers.size

    def texts(self, text: str) -> list[str]:
        return list(self.peers._exchange("texts", text))

    def shift(self, content: memoryview, distance: int, num_bytes: int) -> memoryview:
        sent = self.peers._exchange("shift", bytes(content))[(self.rank - distance) % self.size]
        assert len(sent) == num_bytes
        return memoryview(sent)

    def broadcast(self, content: memoryview | None, source: int, num_bytes: int) -> memoryview:
        sent = self.peers._exchange("broadcast", None if content is None else bytes(content))[source]
        assert len(sent) == num_bytes
        return memoryview(sent)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files travel in several pieces."""
    monkeypatch.setattr(peer_copies, "_CHUNK_BYTES", 100)


def memory(folder: Path, node: int) -> Path:
    return folder / f"memory-{node}"


def copies(peers: ThreadPeers) -> PeerCopies:
    return PeerCopies(ThreadCarrier(peers=peers), ranks_per_node=1, key=None)


def on_nodes(act: Callable[[ThreadPeers], int | None]) -> list[int | None]:
    """What it returns on each node, on each of which there is one rank."""
    done = on_ranks(NODES, act)
    for one in done:
        if isinstance(one, BaseException):
            raise one
    return done  # type: ignore[return-value]  # all that is none of them


def snap(folder: Path, *steps: int) -> None:
    """Snapshots of these steps in the memory of each node."""

    def save(peers: ThreadPeers) -> None:
        role = Role(writes_whole_tensors=peers.rank == 0, publishes=True, copies=copies(peers))
        config = CheckpointConfig(save_every_steps=1, keep_last=2, asynchronous=False)
        one = Checkpointer(memory(folder, peers.rank), config, peers, configuration={}, role=role, disk=MemoryDisk())
        for step in steps:
            one.save(State(step))
        one.finish()

    on_nodes(save)


def restored(folder: Path) -> int | None:
    """The step that all nodes restore, each from its memory and the others', or from the disk."""

    def restore(peers: ThreadPeers) -> int | None:
        config = CheckpointConfig(save_every_steps=1, asynchronous=False)
        one = Checkpointer(folder / "disk", config, peers, configuration={})
        one.look_first_in(memory(folder, peers.rank), copies(peers))
        step = one.restore(state := blank())
        assert step is None or is_state_of(state, step)
        return step

    (step,) = set(on_nodes(restore))
    return step


def files(folder: Path, node: int, step: int) -> set[str]:
    return {path.name for path in (memory(folder, node) / f"step-{step:08d}").glob("*.safetensors")}


def test_the_next_node_has_a_copy_and_all_have_the_manifest(tmp_path: Path) -> None:
    snap(tmp_path, 4, 5, 6)
    assert [files(tmp_path, node, 6) for node in range(NODES)] == [FILES, FILES, set()]
    manifests = [(memory(tmp_path, node) / "step-00000006/manifest.json").read_bytes() for node in range(NODES)]
    assert manifests[0] == manifests[1] == manifests[2]
    assert [one.name for one in candidates(memory(tmp_path, 2))] == ["step-00000006", "step-00000005"]


def test_a_lost_node_gets_its_state_from_its_peer(tmp_path: Path) -> None:
    snap(tmp_path, 6)
    shutil.rmtree(memory(tmp_path, 0))
    assert restored(tmp_path) == 6
    assert files(tmp_path, 0, 6) == FILES


def test_a_damaged_file_comes_from_the_peer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    snap(tmp_path, 6)
    (name, *_) = sorted(FILES)
    file = memory(tmp_path, 0) / "step-00000006" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert restored(tmp_path) == 6
    assert file.read_bytes() == whole
    assert "snapshot passed over" in caplog.text


def test_what_two_neighbours_have_lost_comes_from_the_disk(tmp_path: Path) -> None:
    saved(tmp_path / "disk", 4)
    snap(tmp_path, 6)
    for node in (0, 1):
        shutil.rmtree(memory(tmp_path, node))
    assert restored(tmp_path) == 4


def test_a_snapshot_that_not_all_have_published_is_completed_or_passed_over(tmp_path: Path) -> None:
    snap(tmp_path, 5, 6)
    shutil.rmtree(memory(tmp_path, 0) / "step-00000006")
    assert restored(tmp_path) == 6, "its peer has all of it"
    snap(tmp_path, 7)
    for node in (0, 1):
        shutil.rmtree(memory(tmp_path, node) / "step-00000007")
    assert restored(tmp_path) == 6


def test_nodes_save_the_last_state_together(tmp_path: Path) -> None:
    """Each copies what it has; whoever has the last file publishes."""
    disk = tmp_path / "disk"
    saved(disk, 4)
    snap(tmp_path, 6)
    whole = memory(tmp_path, 1) / "step-00000006"
    (first, second) = sorted(FILES)
    (whole / second).unlink()
    (memory(tmp_path, 0) / "step-00000006" / first).unlink()
    assert rescue_share(memory(tmp_path, 2), disk, None) is None
    assert rescue_share(memory(tmp_path, 1), disk, None) is None
    assert rescue_share(memory(tmp_path, 0), disk, None) == disk / "step-00000006"
    assert rescue_share(memory(tmp_path, 1), disk, None) is None, "the disk has it"
    assert json.loads((disk / "step-00000006/manifest.json").read_text())["step"] == 6
    shutil.rmtree(tmp_path / "memory-0")
    for node in (1, 2):
        shutil.rmtree(memory(tmp_path, node))
    assert restored(tmp_path) == 6
