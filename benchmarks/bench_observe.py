"""What monitoring costs: steps of one model with nothing measured, with the defaults, and with everything.

All in one run of one process: every round takes the same number of steps in each way, one after the other, and the
ways begin in turn; figures are sums over the rounds. The cost is in seconds of a core, which a busy machine changes
little, and by the clock.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

import torch  # noqa: E402

from firstlight.base.peers import Alone  # noqa: E402
from firstlight.base.world import World  # noqa: E402
from firstlight.checkpoint.lock import FolderLock  # noqa: E402
from firstlight.config.load import load  # noqa: E402
from firstlight.config.monitor import MonitorConfig  # noqa: E402
from firstlight.config.schema import RunConfig  # noqa: E402
from firstlight.data.tokenizer import train_tokenizer  # noqa: E402
from firstlight.observe.events import EVENTS_FILE, EventLog  # noqa: E402
from firstlight.train.assemble import assemble, open_inputs  # noqa: E402
from firstlight.train.loop import Parts, train_step  # noqa: E402
from firstlight.train.place import Place  # noqa: E402
from firstlight.train.run_folder import RunFolder  # noqa: E402
from firstlight.train.state import TrainState  # noqa: E402

NEVER = 10**9
WAYS = {
    "off": {"log_every_steps": NEVER, "sinks": (), "measure": ()},
    "default": {"sinks": ("jsonl", "tensorboard")},
    "everything": {
        "sinks": ("jsonl", "tensorboard", "prometheus"),
        "measure": ("ranks", "weights", "updates", "optimizer_state", "layers", "communication", "device"),
        "prometheus": {"port": 0},
        "alerts": [{"when": "loss > 1000"}, {"when": "tokens_per_second < 0.1 * median"}],
    },
}
"""The console is left out: it would write between the lines of this benchmark. It has the cost of a line."""


@dataclass
class Way:
    """A run that is measured in one way, and what its steps have taken, by round."""

    name: str
    parts: Parts
    state: TrainState
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    recording: list[float] = field(default_factory=list)
    """Seconds of a core within the recorder: measured directly, where the difference of whole steps drowns in noise."""

    def take(self, steps: int, *, is_counted: bool) -> None:
        """So many steps, recorded."""
        wall, cpu = time.perf_counter(), time.process_time()
        recording = 0.0
        for _ in range(steps):
            report = train_step(self.parts, self.state)
            begin = time.process_time()
            self.parts.recorder.record(report)
            recording += time.process_time() - begin
        if is_counted:
            self.recording.append(recording)
            self.seconds.append(time.perf_counter() - wall)
            self.cpu_seconds.append(time.process_time() - cpu)


def quickstart(folder: Path, name: str) -> RunConfig:
    """The quickstart's run on made-up tokens, monitored in the way `name`."""
    overrides = [
        f"data.tokenizer={folder / 'tokenizer.json'}",
        "data.train.sources=[{kind: mock}]",
        "data.evaluate=[]",
        "training.steps=100000",
        f"training.output_folder={folder / name}",
        "lr_scheduler={type: constant}",
    ]
    config = load(ROOT / "examples" / "quickstart.yaml", overrides).config
    monitor = MonitorConfig.model_validate({"peak_flops_per_second": 1e12, **WAYS[name]})
    return config.model_copy(update={"monitor": monitor})


@contextmanager
def started(folder: Path, name: str) -> Iterator[Way]:
    """The run, ready for its first step."""
    config = quickstart(folder, name)
    output = RunFolder(path=config.training.output_folder)
    output.claim(config)
    place = Place(
        world=World(),
        peers=Alone(),
        device=torch.device("cpu"),
        folder=output,
        lock=FolderLock(output.path),
        events=EventLog(output.path / EVENTS_FILE),
    )
    parts, state = assemble(config, open_inputs(config), place)
    with parts.recorder.open(0, samples=0, tokens=0):
        yield Way(name=name, parts=parts, state=state)


def measure(wanted: argparse.Namespace, folder: Path) -> list[Way]:
    """Every way, in turns."""
    train_tokenizer(["some words are said again and again\n" * 50], 300).save(str(folder / "tokenizer.json"))
    with ExitStack() as open_ways:
        ways = [open_ways.enter_context(started(folder, name)) for name in WAYS]
        for way in ways:
            way.take(wanted.steps, is_counted=False)
        for round_ in range(wanted.rounds):
            for index in range(len(ways)):
                ways[(round_ + index) % len(ways)].take(wanted.steps, is_counted=True)
    return ways


def show(ways: list[Way], steps: int) -> None:
    """A line for each way, with its cost over the first one: of all rounds, and the median of the rounds."""
    off = ways[0]
    print(
        f"{'monitoring':<12} {'s of a core per step':>22} {'cost':>8} {'median':>8} {'s per step':>12} {'cost':>8} "
        f"{'recording':>10}"
    )
    for way in ways:
        count = steps * len(way.seconds)
        cpu, wall = sum(way.cpu_seconds) / sum(off.cpu_seconds) - 1, sum(way.seconds) / sum(off.seconds) - 1
        pairs = zip(way.cpu_seconds, off.cpu_seconds, strict=True)
        median = statistics.median(one / other - 1 for one, other in pairs)
        print(
            f"{way.name:<12} {sum(way.cpu_seconds) / count:22.5f} {cpu:8.2%} {median:8.2%} "
            f"{sum(way.seconds) / count:12.5f} {wall:8.2%} {sum(way.recording) / sum(way.cpu_seconds):10.2%}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20, help="in each way and round; the defaults record every 10")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ways = measure(wanted, Path(folder))
    show(ways, wanted.steps)


if __name__ == "__main__":
    main()
