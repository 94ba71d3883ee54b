"""The samples that a run leaves out, in a file of its folder: a rewind goes back behind the checkpoints.

Line: {"time": unix seconds, "run": identity, "first": number, "end": number, "step": .., "to_step": .., "reason": ..},
numbers in the order of the data. The file may be copied into the folder of another run, which then leaves out the same.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from firstlight.base.errors import InputError
from firstlight.base.peers import Peers, together
from firstlight.checkpoint.files import replace_durably
from firstlight.data.avoided import Ranges


@dataclass(frozen=True, kw_only=True)
class AvoidedSamples:
    """The samples from `first` up to `end`, left out since the run `run` went back from `step` to `to_step`; none where
    both are the same."""

    time: float
    run: str
    first: int
    end: int
    step: int
    to_step: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a run has left out so far, and how often it has gone back for it itself."""

    ranges: Ranges
    num_rewinds: int


def read_avoided(path: Path, identity: str, peers: Peers) -> Known:
    """What the first rank's file says, on every rank. Collective. Raises InputError when it cannot be read."""
    mine = together(peers, lambda: _read(path) if peers.rank == 0 else [])
    num_rewinds = float(sum(one.run == identity for one in mine))
    count, num_rewinds = peers.sum([float(len(mine)), num_rewinds])
    flat = [float(number) for one in mine for number in (one.first, one.end)] or [0.0] * (2 * int(count))
    numbers = [int(number) for number in peers.sum(flat)]
    return Known(ranges=tuple(zip(numbers[0::2], numbers[1::2], strict=True)), num_rewinds=int(num_rewinds))


def add_avoided(path: Path, samples: AvoidedSamples) -> None:
    """Add a line, durably. Raises InputError when it cannot be written."""
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        replace_durably(path, f"{before}{json.dumps(asdict(samples))}\n".encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from None


def _read(path: Path) -> list[AvoidedSamples]:
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    return [_parsed(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line]


def _parsed(line: str, where: str) -> AvoidedSamples:
    try:
        samples = AvoidedSamples(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise InputError(f"{where} is no line about samples that are left out: {error}") from None
    if not (type(samples.first) is type(samples.end) is int and 0 <= samples.first <= samples.end):
        raise InputError(f"{where}: no samples from {samples.first} to {samples.end}")
    return samples
