"""What a user waits for: help, the check of a configuration, an opened data set, the first step of the quickstart's
model, and the first step after a crash.

Every time is of a command of its own, from its start, imports included; medians over the rounds. A round before the
first one does not count: Python writes its bytecode in it.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks.machine import ForeignLoad, describe  # noqa: E402
from benchmarks.started import end_what_was_started, environment, run  # noqa: E402
from benchmarks.train_firstlight import METRICS, call, require  # noqa: E402
from benchmarks.train_record import append, load_text, read  # noqa: E402

QUICKSTART = ROOT / "examples" / "quickstart.yaml"
AIMS = {
    "firstlight --help": 0.5,
    "firstlight config check": 1.0,
    "opening the data set": 0.05,
    "first step": 8.0,
    "first step after a kill": 8.0,
}
"""Seconds."""
WAIT_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Waited:
    """How long something took once."""

    what: str
    round: int
    seconds: float
    foreign_share: float
    """Of the machine, what others took meanwhile."""
    machine: str
    time: float


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """The quickstart's data and runs, in a folder of their own."""

    folder: Path

    def prepare(self) -> None:
        """As `scripts/quickstart.sh` does."""
        if (self.folder / "complete").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tokenizer = ("--tokenizer", "tokenizer.json", "--output-prefix", "stdlib", "--held-out-fraction", "0.05")
        for verb in (
            ("tokenizer", "train", "--vocab-size", "4096", "--output", "tokenizer.json"),
            ("prepare", *tokenizer),
        ):
            require(call(verb, folder=self.folder))
        (self.folder / "complete").touch()

    def arguments(self, output: Path, steps: int, save_every: int = 0) -> list[str]:
        """Of `firstlight train` or `firstlight config check`."""
        data = {
            "data.tokenizer": self.folder / "tokenizer.json",
            "data.train.sources": f"[{{path: {self.folder / 'stdlib_text_document'}}}]",
            "data.evaluate": f"[{{name: held-out, path: {self.folder / 'stdlib_heldout_text_document'}}}]",
            "training.output_folder": output,
            "training.steps": steps,
            "lr_scheduler": "{type: constant}",
            "checkpoint.save_every_steps": save_every,
            "monitor.log_every_steps": 1,
        }
        return ["--config", str(QUICKSTART), *(word for key in data for word in ("--set", f"{key}={data[key]}"))]


def command(quickstart: Quickstart, *arguments: str) -> tuple[float, float]:
    """Seconds of `firstlight ARGUMENTS`, and what others took."""
    ended = require(call(arguments, folder=quickstart.folder))
    return ended.seconds, ended.load.share(ended.begun, ended.begun + ended.seconds)


def opened(quickstart: Quickstart, output: Path) -> tuple[float, float]:
    """Seconds of opening the run's data set in a process that has loaded what it needs for that."""
    flags = quickstart.arguments(output, 500)
    words = [sys.executable, str(ROOT / "benchmarks" / "open_data.py"), *flags[1:2], *flags[3::2]]
    ended = require(run(words, more={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}, folder=quickstart.folder))
    return json.loads(ended.output)["seconds"], ended.load.share(ended.begun, ended.begun + ended.seconds)


def first_step(quickstart: Quickstart, output: Path) -> tuple[float, float]:
    """Seconds from the command to the end of its first step."""
    begun = time.time()
    ended = require(call(["train", *quickstart.arguments(output, 2)], folder=quickstart.folder))
    end = _steps(output)[0]["time"]
    return end - begun, ended.load.share(begun, end)


def first_step_after_a_kill(quickstart: Quickstart, output: Path) -> tuple[float, float]:
    """Seconds from starting a killed run again to the end of its first step; it was killed behind a checkpoint."""
    arguments = ["train", *quickstart.arguments(output, 10_000, save_every=5)]
    with _running(quickstart, arguments) as process:
        _wait_until(lambda: any(output.glob("checkpoints/step-*/manifest.json")) and len(_steps(output)) > 6)
        process.kill()
        process.wait()
    begun = time.time()
    with _running(quickstart, arguments) as process, ForeignLoad(process.pid) as load:
        _wait_until(lambda: any(step["time"] > begun for step in _steps(output)))
        process.kill()
        process.wait()
    next_one = min((step for step in _steps(output) if step["time"] > begun), key=lambda step: step["time"])
    if next_one["step"] == 1:
        sys.exit("a killed run began anew instead of going on from its checkpoint")
    return next_one["time"] - begun, load.share(begun, next_one["time"])


def recovery(quickstart: Quickstart, output: Path) -> tuple[float, float]:
    """Seconds from killing one of two ranks to the end of the next step, which the launcher's new ranks take."""
    arguments = ["train", *quickstart.arguments(output, 10_000, save_every=5), "--nproc-per-node", "2"]
    with _running(quickstart, arguments) as process, ForeignLoad(process.pid) as load:
        _wait_until(lambda: any(output.glob("checkpoints/step-*/manifest.json")) and len(_steps(output)) > 6)
        killed = time.time()
        os.kill(_ranks(process.pid)[-1], signal.SIGKILL)
        _wait_until(lambda: any(step["time"] > killed + 1 for step in _steps(output)))
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_SECONDS)
    end = min(step["time"] for step in _steps(output) if step["time"] > killed + 1)
    return end - killed, load.share(killed, end)


def _running(quickstart: Quickstart, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "firstlight", *arguments],
        cwd=quickstart.folder,
        env=environment({"PYTHONPATH": str(ROOT / "src")}, quickstart.folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _ranks(launcher: int) -> list[int]:
    text = "".join(path.read_text() for path in Path(f"/proc/{launcher}/task").glob("*/children"))
    return [int(word) for word in text.split()]


def _steps(output: Path) -> list[Mapping[str, float]]:
    path = output / METRICS
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    return [line for line in whole if line["kind"] == "step"]


def _wait_until(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + WAIT_SECONDS
    while not is_so():
        if time.monotonic() > ends:
            sys.exit(f"nothing happened for {WAIT_SECONDS} s")
        time.sleep(0.02)


def lines(records: Sequence[Waited]) -> list[str]:
    """The table as Markdown."""
    rows = ["| what | median | least to most | aim | others' load |", "| --- | --- | --- | --- | --- |"]
    for what in dict.fromkeys(one.what for one in records):
        of_it = [one for one in records if one.what == what]
        seconds = [one.seconds for one in of_it]
        aim = f"{AIMS[what]:g} s" if what in AIMS else ""
        foreign = statistics.median(one.foreign_share for one in of_it)
        rows.append(
            f"| {what} | {statistics.median(seconds):.3f} s | {min(seconds):.3f} to {max(seconds):.3f} s | {aim} "
            f"| {load_text(foreign)} |"
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    end_what_was_started()
    folder = wanted.folder.absolute()
    quickstart, results = Quickstart(folder=folder / "quickstart"), folder / "start.jsonl"
    quickstart.prepare()
    results.unlink(missing_ok=True)
    for round_ in range(-1, wanted.rounds):
        output = [folder / f"run-{time.time_ns()}-{number}" for number in range(4)]
        check = ("config", "check", *quickstart.arguments(output[0], 500))
        for what, measure in {
            "firstlight --help": lambda: command(quickstart, "--help"),
            "firstlight config check": lambda check=check: command(quickstart, *check),
            "opening the data set": lambda output=output: opened(quickstart, output[0]),
            "first step": lambda output=output: first_step(quickstart, output[1]),
            "first step after a kill": lambda output=output: first_step_after_a_kill(quickstart, output[2]),
            "a rank of two killed, to the next step": lambda output=output: recovery(quickstart, output[3]),
        }.items():
            seconds, foreign = measure()
            one = Waited(
                what=what,
                round=round_,
                seconds=seconds,
                foreign_share=foreign,
                machine=describe(),
                time=time.time(),
            )
            if round_ >= 0:
                append(results, one)
            print(f"  {what}, round {round_}: {seconds:.3f} s, others took {foreign:.1%}", file=sys.stderr, flush=True)
        for path in output:
            shutil.rmtree(path, ignore_errors=True)
    print("\n".join(lines(read(results, Waited))))


if __name__ == "__main__":
    main()
