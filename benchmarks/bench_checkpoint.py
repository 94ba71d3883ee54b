"""Saving and loading checkpoints beside torch.save and torch.distributed.checkpoint, and beside what the disk gives.

All in one run: every round probes the disk and then goes through every way; figures are medians over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks.table import Row, show  # noqa: E402

WAYS = ("firstlight", "torch.save", "dcp.save", "dcp.async_save")


class Figures:
    """Medians of what one process measured."""

    def __init__(self, measured: dict[str, Any]) -> None:
        self.gigabytes = measured["bytes"] / 1e9
        self._seconds = {name: statistics.median(all_) for name, all_ in measured["times"].items()}
        self._cpu_seconds = {name: statistics.median(all_) for name, all_ in measured["cpu_times"].items()}

    def seconds(self, name: str) -> float:
        """By the clock."""
        return self._seconds[name]

    def cpu_seconds(self, name: str) -> float:
        """Of all threads: what a machine with other work to do changes little."""
        return self._cpu_seconds[name]

    def row(self, way: str, what: str) -> Row:
        """Throughput of `way`: the ratio is the share of what the disk gave."""
        name = f"{way}: {what}"
        rate = self.gigabytes / self.seconds(name)
        return Row(name=way, rate=rate, text=f"{self.text(name)} {rate:8.2f} GB/s")

    def text(self, name: str) -> str:
        """Both kinds of seconds."""
        return f"{self.seconds(name):8.3f} s, {self.cpu_seconds(name):8.3f} s of a core"


def measure(folder: Path, wanted: argparse.Namespace, num_parameters: int) -> Figures:
    """The figures of a process of its own."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "checkpoint_rounds.py")]
    options = {"--folder": folder, "--parameters": num_parameters, "--rounds": wanted.rounds}
    done = subprocess.run(
        [*command, *(str(word) for pair in options.items() for word in pair)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return Figures(json.loads(done.stdout.strip().splitlines()[-1]))


def show_size(figures: Figures, num_parameters: int, rounds: int) -> None:
    """The tables of one size."""
    title = f"{num_parameters / 1e6:,.0f} M parameters, {figures.gigabytes:.2f} GB, medians of {rounds}"
    names = ("dcp.save: save", "torch.save: save", "dcp.async_save: stall", "firstlight: stall")
    rows = [Row(name=name, rate=1 / figures.seconds(name), text=figures.text(name)) for name in names]
    show(f"{title}: the step waits", rows)
    for what, words in (("save", "until it is on disk"), ("load", "load from disk"), ("load from cache", "from cache")):
        names = ("disk", *WAYS[:3], "firstlight, not hashed") if "load" in what else ("disk", *WAYS)
        show(f"{title}: {words} (ratio: share of the disk)", [figures.row(name, what) for name in names])
    stall = figures.seconds("firstlight: stall") / figures.seconds("dcp.save: save")
    print(f"\n  stall: {100 * stall:.1f} % of dcp.save (aim: under 10 %)")
    for what in ("load", "load from cache"):
        hashed, plain = f"firstlight: {what}", f"firstlight, not hashed: {what}"
        share = 1 - figures.seconds(plain) / figures.seconds(hashed)
        cpu_share = 1 - figures.cpu_seconds(plain) / figures.cpu_seconds(hashed)
        print(
            f"  hashing: {100 * share:.1f} % of the {what} (aim: under 10 %), {100 * cpu_share:.1f} % of its core time"
        )


def arguments() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk that is measured; the system's for such by default")
    parser.add_argument("--parameters", type=int, nargs="+", default=[25_000_000, 200_000_000])
    parser.add_argument("--rounds", type=int, default=5, help="that count, after one that does not")
    return parser.parse_args()


def main() -> None:
    """Measure each size."""
    wanted = arguments()
    for num_parameters in wanted.parameters:
        with tempfile.TemporaryDirectory(prefix="firstlight-bench-", dir=wanted.folder) as name:
            show_size(measure(Path(name), wanted, num_parameters), num_parameters, wanted.rounds)


if __name__ == "__main__":
    main()
