"""What a run's folder tells of the run: its records, its configuration, its facts and a sample of its text."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError
from firstlight.config.source import read_source
from firstlight.observe.events import EVENTS_FILE, FAULTS_FILE, Event, read_events, read_faults
from firstlight.observe.jsonl import METRICS_FILE, read_metrics
from firstlight.observe.record import LOSS_PREFIX, TOKEN_LOSS, held_out_sets

CONFIGURATION_FILE = "config.yaml"
FACTS_FILE = "run.json"
SAMPLE_FILE = "sample.txt"
SAMPLE_NAME = re.compile(r"sample-0*(\d+)\.txt")

Line = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class History:
    """A run as its folder tells it."""

    name: str
    steps: Sequence[Line]
    """Records of steps, ascending; at least one."""
    evaluations: Mapping[str, Sequence[Line]]
    """For each held-out set: step, samples, tokens, loss, perplexity and perhaps bits_per_byte, ascending."""
    facts: Mapping[str, Any]
    """run.json, or nothing: parameters, activated_parameters, world_size, device, versions..."""
    configuration: Mapping[str, Any]
    configuration_text: str
    sample: str
    ranks: Sequence[Line] = ()
    """Tables of ranks, ascending: step, and by name a list with a number for each rank."""
    events: Sequence[Event] = ()
    samples: Mapping[int, str] = field(default_factory=dict)
    """Texts that the model wrote after so many steps, ascending."""

    @property
    def vocabulary_size(self) -> int | None:
        """The number of tokens that the model chooses from, if the configuration is there."""
        size = self.configuration.get("model", {}).get("vocab_size")
        return size if isinstance(size, int) and size > 1 else None

    @property
    def total_steps(self) -> int | None:
        """The steps that the run was to make, if the configuration is there."""
        steps = self.configuration.get("training", {}).get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def token_loss(self) -> str:
        """The figure to hold against held-out losses: the next token's part of the loss, if there are others too."""
        has_others = len(self.names(LOSS_PREFIX)) > 1
        return TOKEN_LOSS if has_others and self.has(TOKEN_LOSS) else "loss"

    @property
    def elapsed_seconds(self) -> float:
        """Seconds of all processes that contributed to the records: the clock starts anew at each restart."""
        total = latest = 0.0
        for line in self.steps:
            elapsed = float(line.get("elapsed_seconds") or 0.0)
            total += latest if elapsed < latest else 0.0
            latest = elapsed
        return total + latest

    def has(self, name: str) -> bool:
        """Whether some record has a number of that name."""
        return any(line.get(name) is not None for line in self.steps)

    def column(self, name: str) -> list[float | None]:
        """The figure `name` of each record; None where there is none or it was not finite."""
        return [line.get(name) for line in self.steps]

    def names(self, prefix: str) -> list[str]:
        """What follows `prefix` in the names of figures, in order of appearance."""
        found = dict.fromkeys(name for line in self.steps for name in line if name.startswith(prefix))
        return [name.removeprefix(prefix) for name in found]


def read_histories(runs: Sequence[Path]) -> list[History]:
    """The histories of run folders, under names that tell them apart. Raises InputError when one has no metrics."""
    if not runs:
        raise InputError("no run was given; name at least one run folder")
    return [_read(folder, name) for folder, name in zip(runs, _names(runs), strict=True)]


def _read(folder: Path, name: str) -> History:
    lines = read_metrics(folder / METRICS_FILE)
    steps = _by_step(line for line in lines if line["kind"] == "step")
    if not steps:
        raise InputError(f"{folder / METRICS_FILE} holds no step yet; wait for the run's first record")
    configuration_file = folder / CONFIGURATION_FILE
    has_configuration = configuration_file.exists()
    return History(
        name=name,
        steps=steps,
        evaluations=_evaluations(line for line in lines if line["kind"] == "evaluation"),
        facts=_facts(folder / FACTS_FILE),
        configuration=read_source(configuration_file).values if has_configuration else {},
        configuration_text=_text(configuration_file),
        sample=_text(folder / SAMPLE_FILE),
        ranks=_with_tokens(_by_step(line for line in lines if line["kind"] == "ranks"), steps),
        events=sorted([*read_events(folder / EVENTS_FILE), *read_faults(folder / FAULTS_FILE)], key=_when),
        samples=_samples(folder),
    )


def _when(event: Event) -> float:
    return event.time


def _with_tokens(ranks: Sequence[Line], steps: Sequence[Line]) -> list[Line]:
    """A table of ranks stands at the place of its step's record."""
    tokens = {line["step"]: line.get("tokens") for line in steps}
    return [{**line, "tokens": tokens.get(line["step"])} for line in ranks]


def _samples(folder: Path) -> dict[int, str]:
    found = {int(match[1]): path for path in folder.iterdir() if (match := SAMPLE_NAME.fullmatch(path.name))}
    return {step: _text(found[step]) for step in sorted(found)}


def thinned(run: History, most: int) -> History:
    """The run with at most so many records of steps, and as many tables of ranks: evenly, the last ones among them."""
    return replace(run, steps=_thinned(run.steps, most), ranks=_thinned(run.ranks, most))


def _thinned(lines: Sequence[Line], most: int) -> Sequence[Line]:
    if len(lines) <= most:
        return lines
    return [lines[(index + 1) * len(lines) // most - 1] for index in range(most)]


def _evaluations(lines: Iterable[Line]) -> dict[str, Sequence[Line]]:
    sets: dict[str, list[Line]] = {}
    for line in lines:
        position = {name: line.get(name) for name in ("step", "samples", "tokens")}
        for name, figures in held_out_sets(line).items():
            # the set's own size is not a position in training
            sets.setdefault(name, []).append({**figures, **position})
    return {name: _by_step(own) for name, own in sets.items()}


def _by_step(lines: Iterable[Line]) -> list[Line]:
    """Ascending, one for each step: a run that is evaluated again after a restart says the same twice."""
    latest = {line["step"]: line for line in lines}
    return [latest[step] for step in sorted(latest)]


def _facts(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(facts, dict):
        raise InputError(f'{path}: expected an object of facts, such as {{"parameters": 1000000}}')
    return facts


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _names(runs: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents as it takes to tell the runs apart."""
    paths = [run.absolute() for run in runs]
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, start=1)]
