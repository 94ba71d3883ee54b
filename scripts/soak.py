"""Kill ranks of a run at chance moments, for minutes, and compare its end with that of an undisturbed run.

Ends with exit code 1 when a kill was not recovered from, a sample was trained on twice or never, or a bit differs.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Event, Thread

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from firstlight.checkpoint.step_folder import candidates  # noqa: E402
from tests.runs import TinyRun, command, environment, make_tiny_run, train_arguments  # noqa: E402

RANKS = 2
SAMPLES_PER_STEP = 4
RUN = ("training.micro_batch_size=1", "checkpoint.save_every_steps=200", "training.evaluate_every_steps=0")
SUPERVISED = (*RUN, "resilience.snapshot_every_steps=1", "resilience.max_restarts=1000")
CALIBRATION_STEPS = 200


class Killer(Thread):
    """Sends SIGKILL to a rank of the launcher `pid`, after times that are exponential with mean `mean_seconds`."""

    def __init__(self, pid: int, *, mean_seconds: float, seed: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._mean_seconds = mean_seconds
        self._source = random.Random(seed)
        self.ended = Event()
        self.kills = 0

    def run(self) -> None:
        while not self.ended.wait(self._source.expovariate(1 / self._mean_seconds)):
            ranks = ranks_of(self._pid)
            if len(ranks) == RANKS:
                os.kill(self._source.choice(ranks), signal.SIGKILL)
                self.kills += 1


def ranks_of(launcher: int) -> list[int]:
    """The processes that the launcher has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == launcher and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def train(
    run: TinyRun, steps: int, *overrides: str, mean_seconds: float | None = None, seed: int = 0
) -> tuple[str, int]:
    """What a run to its end has said, and how often one of its ranks was killed."""
    process = subprocess.Popen(
        command(*train_arguments(f"training.steps={steps}", *overrides, processes=RANKS)),
        cwd=run.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    killer = Killer(process.pid, mean_seconds=mean_seconds or 1e9, seed=seed)
    killer.start()
    _, said = process.communicate()
    killer.ended.set()
    if process.returncode:
        sys.exit(f"the run ended with exit code {process.returncode}:\n{said[-3000:]}")
    return said, killer.kills


def last_tensors(run: TinyRun) -> dict[str, bytes]:
    """Weights and moments at the end."""
    return {path.name: path.read_bytes() for path in candidates(run.checkpoints)[0].glob("*.safetensors")}


def faults_of(run: TinyRun, event: str) -> int:
    """How many of this kind the supervisor has written down."""
    file = run.output / "faults.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return sum(json.loads(line)["event"] == event for line in lines)


def main() -> None:
    """Measure a step, run undisturbed, run disturbed, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the disturbed run, about")
    parser.add_argument("--mean-seconds", type=float, default=60.0, help="from one kill to the next")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        measured = make_tiny_run(Path(folder) / "measured")
        train(measured, CALIBRATION_STEPS, *SUPERVISED)
        lines = measured.metrics("step")
        step_seconds = (lines[-1]["time"] - lines[0]["time"]) / (len(lines) - 1)
        steps = max(CALIBRATION_STEPS, round(60 * flags.minutes / step_seconds))
        print(
            f"{steps} steps of {1000 * step_seconds:.1f} ms; measured in {time.monotonic() - began:.0f} s", flush=True
        )
        alone, disturbed = make_tiny_run(Path(folder) / "alone"), make_tiny_run(Path(folder) / "disturbed")
        train(alone, steps, *RUN)
        said, kills = train(disturbed, steps, *SUPERVISED, mean_seconds=flags.mean_seconds, seed=flags.seed)
        effective = re.search(r"effective training time ([\d.]+) %", said)
        samples = [line["samples"] for line in disturbed.metrics("step")]
        checks = {
            f"{kills} kills, all of them noticed": faults_of(disturbed, "fault") >= kills > 0,
            "each sample once": samples == [SAMPLES_PER_STEP * step for step in range(1, steps + 1)],
            "the last bits are those of the undisturbed run": last_tensors(disturbed) == last_tensors(alone),
        }
        for what, holds in checks.items():
            print(f"{'ok' if holds else 'FAILED'}: {what}")
        print(f"effective training time {effective.group(1) if effective else '100'} %")
        sys.exit(not all(checks.values()))


if __name__ == "__main__":
    main()
