"""Saves and loads one state in every way, round after round, in one process; prints all times as JSON.

What is written lies in the page cache; loads are measured after it was dropped, and again from it.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from firstlight.base.peers import Alone
from firstlight.checkpoint import pieces
from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.config.training import CheckpointConfig

BLOCK_BYTES = 1 << 24
MATRIX = 1024 * 4096


class State:
    """A model's weights and Adam's moments in fp32: 12 bytes for each parameter."""

    def __init__(self, num_parameters: int) -> None:
        source = torch.Generator().manual_seed(0)
        sizes = [MATRIX] * (num_parameters // MATRIX) + [num_parameters % MATRIX]
        self.step = 0
        self.live = {
            f"{kind}{number}.weight": torch.randn(size, generator=source)
            for kind in ("model/", "optimizer/exp_avg/", "optimizer/exp_avg_sq/")
            for number, size in enumerate(sizes)
            if size
        }

    def tensors(self) -> Mapping[str, Tensor]:
        return self.live

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def refusal(self, _state: Mapping[str, Any], /) -> str | None:
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]


class NotHashed:
    """In the place of BLAKE3: takes bytes and does not look at them."""

    def update(self, _content: memoryview) -> None:
        pass

    def hexdigest(self) -> str:
        return Equal()


class Equal(str):
    """Stands for any digest: loading with it costs all but the hashing."""

    __hash__ = str.__hash__

    def __eq__(self, _other: object) -> bool:
        return True

    def __ne__(self, _other: object) -> bool:
        return False


class Rounds:
    """All ways, each in a folder of its own; `times` holds the seconds of each round by name, `cpu_times` a core's."""

    def __init__(self, folder: Path, num_parameters: int) -> None:
        self.folder = folder
        self.state = State(num_parameters)
        self.num_bytes = sum(tensor.nbytes for tensor in self.state.live.values())
        self.times: dict[str, list[float]] = {}
        self.cpu_times: dict[str, list[float]] = {}
        # Each way that keeps a copy of the state in memory does so from the first round on.
        self.ours = self._checkpointer(folder / "ours")
        self.stager = DefaultStager(StagingOptions(*[False] * 4))

    def run(self) -> None:
        """One round."""
        for way in (self.probe, self.save_ours, self.save_torch, self.save_dcp, self.save_dcp_async):
            way()
        self.state.step += 1

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Seconds by the clock and of all threads."""
        begin, cpu_begin = time.perf_counter(), time.process_time()
        yield
        self.times.setdefault(name, []).append(time.perf_counter() - begin)
        self.cpu_times.setdefault(name, []).append(time.process_time() - cpu_begin)

    def timed(self, name: str, act: Callable[[], Any]) -> Any:
        with self.timing(name):
            return act()

    def loaded(self, name: str, folder: Path, load: Callable[[], Any]) -> None:
        """Time `load` from the disk, then from the page cache."""
        drop(folder)
        self.timed(f"{name}: load", load)
        self.timed(f"{name}: load from cache", load)

    def probe(self) -> None:
        """What the disk gives: as many bytes in large blocks, flushed; and back."""
        folder = emptied(self.folder / "probe")
        self.timed("disk: save", lambda: write_blocks(folder / "file", self.num_bytes))
        self.loaded("disk", folder, lambda: read_blocks(folder / "file"))
        shutil.rmtree(folder)

    def save_ours(self) -> None:
        """Stall of the step, the whole save, and loads with and without hashing."""
        folder = self.folder / "ours"
        with self.timing("firstlight: save"):
            self.timed("firstlight: stall", lambda: self.ours.save(self.state))
            self.ours.finish()
        self.loaded("firstlight", folder, lambda: self._checkpointer(folder).restore(self.state))
        hasher, pieces.blake3 = pieces.blake3, NotHashed
        self.loaded("firstlight, not hashed", folder, lambda: self._checkpointer(folder).restore(self.state))
        pieces.blake3 = hasher

    def save_torch(self) -> None:
        """torch.save of the same tensors, flushed."""
        file = emptied(self.folder / "torch") / "state.pt"

        def save() -> None:
            with file.open("wb") as opened:
                torch.save(self.state.live, opened)
                opened.flush()
                os.fsync(opened.fileno())

        def load() -> None:
            found = torch.load(file, weights_only=True)
            for name, tensor in found.items():
                self.state.live[name].copy_(tensor)

        self.timed("torch.save: save", save)
        self.loaded("torch.save", file.parent, load)

    def save_dcp(self) -> None:
        """torch.distributed.checkpoint, the step waiting for it."""
        folder = emptied(self.folder / "dcp")
        live = dict(self.state.live)
        self.timed("dcp.save: save", lambda: dcp.save(live, checkpoint_id=folder, no_dist=True))
        self.loaded("dcp.save", folder, lambda: dcp.load(live, checkpoint_id=folder, no_dist=True))

    def save_dcp_async(self) -> None:
        """The same beside the training, with a stager that keeps its host copy."""
        folder = emptied(self.folder / "dcp_async")
        live = dict(self.state.live)
        with self.timing("dcp.async_save: save"):
            self.timed("dcp.async_save: stall", lambda: self._async_save(live, folder)).result()

    def _async_save(self, live: dict[str, Any], folder: Path) -> Any:
        return dcp.async_save(live, checkpoint_id=folder, no_dist=True, async_stager=self.stager)

    def _checkpointer(self, folder: Path) -> Checkpointer:
        return Checkpointer(folder, CheckpointConfig(keep_last=1), Alone(), configuration={})


def emptied(folder: Path) -> Path:
    """The folder, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def drop(folder: Path) -> None:
    """Take the files below `folder` out of the page cache."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def write_blocks(path: Path, num_bytes: int) -> None:
    """Write and flush a file, as `dd bs=16M conv=fsync` does."""
    block = torch.randint(0, 256, (BLOCK_BYTES,), dtype=torch.uint8).numpy()
    with path.open("xb", buffering=0) as file:
        for begin in range(0, num_bytes, BLOCK_BYTES):
            file.write(memoryview(block)[: num_bytes - begin])
        os.fsync(file.fileno())


def read_blocks(path: Path) -> None:
    """Read a file, as `dd bs=16M of=/dev/null` does."""
    block = bytearray(BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass


def main() -> None:
    """Run the rounds; the first is not counted: memory is taken and buffers are made in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parameters", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    wanted = parser.parse_args()
    rounds = Rounds(wanted.folder, wanted.parameters)
    for _ in range(wanted.rounds + 1):
        rounds.run()
    rounds.stager.close()
    counted = [{name: all_[1:] for name, all_ in one.items()} for one in (rounds.times, rounds.cpu_times)]
    print(json.dumps({"bytes": rounds.num_bytes, "times": counted[0], "cpu_times": counted[1]}))


if __name__ == "__main__":
    main()
