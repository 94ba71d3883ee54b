"""What one process that trained has measured: a line of a results file, from which tables are made."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

WARM_UP_STEPS = 2
"""Steps in which memory is taken for the first time and libraries choose their ways."""
QUIET_SHARE = 0.06
"""Of the machine that others may take for a step to count as undisturbed."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Steps of one program on one model, with the settings of one column."""

    program: str
    case: str
    settings: str
    round: int
    threads: int
    """Of the machine, for all processes together."""
    tokens_per_step: int
    flops_per_token: float
    parameters: int = 0
    seconds: Sequence[float] = ()
    losses: Sequence[float] = ()
    foreign: Sequence[float] = ()
    """Of the machine, what others took during each step."""
    first_step_seconds: float = 0.0
    """From the start of the command to the end of the first step."""
    peak_bytes: int = 0
    """Of the process that takes most, until the last step."""
    whole_peak_bytes: int = 0
    """The same with what follows: Firstlight saves its last state."""
    spans: Mapping[str, float] = field(default_factory=dict)
    """Seconds of the parts of a step, medians."""
    processes: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    time: float = 0.0
    error: str | None = None

    @property
    def counted(self) -> list[tuple[float, float]]:
        """Seconds and others' share of steps after the warm-up, those that others disturbed left out while at least two
        remain."""
        every = list(zip(self.seconds, self.foreign, strict=True))
        after = every[min(WARM_UP_STEPS, max(len(every) - 1, 0)) :]
        quiet = [one for one in after if one[1] <= QUIET_SHARE]
        return quiet if len(quiet) >= 2 else after

    @property
    def measured_seconds(self) -> list[float]:
        """Of the steps that count."""
        return [seconds for seconds, _ in self.counted]

    @property
    def tokens_per_second(self) -> float:
        """Of the median step."""
        return self.tokens_per_step / statistics.median(self.measured_seconds)

    @property
    def foreign_share(self) -> float:
        """That others took while the steps that count ran, by time; 0 where there are none."""
        whole = sum(self.measured_seconds)
        return sum(seconds * share for seconds, share in self.counted) / whole if whole else 0.0

    @property
    def is_quiet(self) -> bool:
        """Whether others left it alone; one that failed would fail again."""
        return self.error is not None or self.foreign_share <= QUIET_SHARE

    def line(self) -> str:
        """To be read while others are measured."""
        name = f"{self.case} {self.program}, {self.settings}, round {self.round}"
        if self.error is not None:
            return f"{name}: {self.error}"
        return (
            f"{name}: {self.tokens_per_second:.0f} tokens/s, {self.peak_bytes / 1e9:.2f} GB, "
            f"loss {self.losses[0]:.3f} to {self.losses[-1]:.3f}, others took {self.foreign_share:.1%}"
        )


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What matrix products reach: GFLOP/s by shape."""

    round: int
    threads: int
    gigaflops: dict[str, float]
    foreign_share: float


def load_text(share: float) -> str:
    """Others' share of the machine as tables show it."""
    return f"{share:.1%}" if share <= QUIET_SHARE else f"{share:.1%}, disturbed"


def append(path: Path, record: Any) -> None:
    """Add one record, by the name of its type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"kind": type(record).__name__, **asdict(record)}) + "\n")


def read(path: Path, *kinds: type) -> list[Any]:
    """The records of these types in a results file, in the order of writing; none where there is no file."""
    if not path.exists():
        return []
    by_name = {kind.__name__: kind for kind in kinds}
    lines: Iterable[dict[str, Any]] = (json.loads(line) for line in path.read_text().splitlines())
    return [by_name[line.pop("kind")](**line) for line in lines if line["kind"] in by_name]
