"""Supervisors of several nodes on this machine: each has a port, a folder in memory and ranks of its own."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.checkpoint.memory import SHARED_MEMORY
from tests.runs import TinyRun, command, environment, train_arguments

END_SECONDS = 200

RUN = (
    "training.micro_batch_size=1",
    "checkpoint.save_every_steps=1000",
    "resilience.snapshot_every_steps=1",
    "resilience.frozen_after_seconds=6",
    "resilience.hung_after_seconds=10",
)


@dataclass(kw_only=True)
class Nodes:
    """`count` nodes with one rank each. `prefix` is put before the command of each node."""

    run: TinyRun
    count: int
    port: int
    steps: int
    overrides: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    prefix: dict[int, Sequence[str]] = field(default_factory=dict)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, *ranks: int) -> None:
        """The supervisors of these nodes; what they say goes to `node-N.err`, behind what is there."""
        given = (*RUN, f"training.steps={self.steps}", *self.overrides)
        for rank in ranks or range(self.count):
            words = ["--nodes", str(self.count), "--node-rank", str(rank), "--master", f"{self.host}:{self.port}"]
            with self._err(rank).open("ab") as err:
                self.processes[rank] = subprocess.Popen(
                    [*self.prefix.get(rank, ()), *command(*train_arguments(*given), *words)],
                    cwd=self.run.folder,
                    env=environment(),
                    stdout=err,
                    stderr=err,
                )

    def kill(self, rank: int, *, forgets: bool = False) -> None:
        """SIGKILL its supervisor, as when a machine loses power; then it `forgets` what its memory held."""
        (self.run.folder / "killed-at").write_text(str(time.time()))
        self.processes[rank].send_signal(signal.SIGKILL)
        self.processes[rank].wait()
        if forgets:
            time.sleep(1)  # its ranks end with it
            shutil.rmtree(self.memory(rank))

    def end(self) -> list[int]:
        """The exit codes of all, in the order of the nodes."""
        end = time.monotonic() + END_SECONDS
        return [self.processes[rank].wait(max(end - time.monotonic(), 1)) for rank in sorted(self.processes)]

    def said(self, rank: int) -> str:
        return self._err(rank).read_text()

    def memory(self, rank: int) -> Path:
        identity = (self.run.output / "identity").read_text().strip()
        return SHARED_MEMORY / f"firstlight-{os.getuid()}-{identity}-node-{rank}"

    def steps_done(self) -> int:
        return max((int(line["step"]) for line in self.run.metrics("step")), default=0)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        if (self.run.output / "identity").exists():
            for rank in range(self.count):
                shutil.rmtree(self.memory(rank), ignore_errors=True)

    def _err(self, rank: int) -> Path:
        return self.run.folder / f"node-{rank}.err"
