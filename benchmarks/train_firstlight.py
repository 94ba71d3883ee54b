"""Runs `firstlight train` as a user does, on a data set that `firstlight prepare` made, and reads what it recorded."""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.started import Ended, run
from benchmarks.train_cases import VOCABULARY_SIZE, Case
from benchmarks.train_record import WARM_UP_STEPS
from firstlight import __version__
from firstlight.config.load import load
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import Timeline
from firstlight.data.open import TrainingNeeds, open_training_data
from firstlight.data.stream import TokenStream

ROOT = Path(__file__).parents[1]
METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Python's standard library as tokens of a vocabulary of its own, made once and kept."""

    folder: Path

    @property
    def tokenizer(self) -> Path:
        """The tokenizer.json."""
        return self.folder / "tokenizer.json"

    def prepare(self) -> None:
        """Make what is not there."""
        if (self.folder / "complete").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        verbs = (
            ("tokenizer", "train", "--vocab-size", str(VOCABULARY_SIZE), "--output", str(self.tokenizer)),
            ("prepare", "--tokenizer", str(self.tokenizer), "--output-prefix", str(self.folder / "stdlib")),
        )
        for verb in verbs:
            require(call(verb, folder=self.folder))
        (self.folder / "complete").touch()

    def config(self, case: Case, output: Path, steps: int) -> dict[str, Any]:
        """What a user writes to train a model of `case` on this."""
        usual: dict[str, Any] = {
            "model": dict(case.model),
            "data": {
                "train": {
                    "sources": [{"path": str(self.folder / "stdlib_text_document")}],
                    "sequence_length": case.sequence_length,
                },
                "tokenizer": str(self.tokenizer),
            },
            "optimizer": {
                "type": "adamw",
                "learning_rate": 3.0e-4,
                "betas": [0.9, 0.95],
                "weight_decay": 0.1,
                "max_grad_norm": 1.0,
            },
            "training": {
                "steps": steps,
                "global_batch_size": case.batch_size,
                "micro_batch_size": max(case.batch_size // case.processes, 1),
                "output_folder": str(output),
            },
            "checkpoint": {"save_every_steps": 0},
            "monitor": {"log_every_steps": 1},
            "recompute": {"kind": "full" if case.recomputes else "none"},
        }
        return usual | {name: {**usual.get(name, {}), **section} for name, section in case.sections.items()}

    def write_config(self, case: Case, output: Path, steps: int) -> Path:
        """The YAML file of a run in `output`; JSON is YAML."""
        path = output.with_suffix(".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.config(case, output, steps), indent=1))
        return path

    def write_tokens(self, case: Case, steps: int, path: Path) -> None:
        """The global batches of that run in its own order, int32 [steps, batch, length + 1], for peers to read."""
        written = self.write_config(case, path.with_suffix(""), steps)
        stream = _stream(load(written).config, steps)
        written.unlink()
        batches = [next(stream) for _ in range(steps)]
        rows = [np.concatenate([batch.tokens, batch.labels[:, -1:]], axis=1) for batch in batches]
        np.save(path, np.stack(rows).astype(np.int32))


def _stream(config: RunConfig, steps: int) -> TokenStream:
    training, length = config.training, config.data.train.sequence_length
    batch_size = training.micro_batch_size
    needs = TrainingNeeds(num_samples=steps * batch_size, seed=training.seed, vocab_size=config.model.vocab_size)
    return TokenStream(
        open_training_data(config.data, needs).dataset,
        timeline=Timeline.even(steps=steps, batch_size=batch_size, sequence_length=length),
        micro_batch_size=batch_size,
        data_rank=0,
        data_size=1,
    )


def call(arguments: Sequence[str], *, folder: Path, more: Mapping[str, str] | None = None) -> Ended:
    """`firstlight ARGUMENTS` with this interpreter, from this checkout."""
    command = [sys.executable, "-m", "firstlight", *arguments]
    return run(command, more={"PYTHONPATH": str(ROOT / "src"), **(more or {})}, folder=folder)


def require(ended: Ended) -> Ended:
    """The same; the benchmark ends with what the program complained when it failed."""
    if ended.error is not None:
        sys.exit(f"firstlight: {ended.error}")
    return ended


def train(config: Path, output: Path, *, num_processes: int = 1, more: Mapping[str, str]) -> dict[str, Any]:
    """Train, and what the run says of itself: parameters, seconds, losses and spans of steps, memory, versions."""
    many = () if num_processes == 1 else ("--nproc-per-node", str(num_processes))
    ended = call(("train", "--config", str(config), *many), folder=output.parent, more=more)
    if ended.error is not None:
        return {"error": ended.error}
    lines = [json.loads(line) for line in (output / METRICS).read_text().splitlines()]
    steps, ranks = ([line for line in lines if line["kind"] == kind] for kind in ("step", "ranks"))
    seconds = [step["step_seconds"] for step in steps]
    waits = [max(line["wait_seconds"]) for line in ranks if None not in line.get("wait_seconds", [None])]
    return {
        "parameters": json.loads((output / "run.json").read_text())["parameters"],
        "seconds": seconds,
        "losses": [step["loss/lm"] for step in steps],
        "foreign": [
            ended.load.share(step["time"] - taken, step["time"]) for step, taken in zip(steps, seconds, strict=True)
        ],
        "first_step_seconds": steps[0]["time"] - ended.begun,
        "spans": _spans(steps) | ({"longest wait": statistics.median(waits[WARM_UP_STEPS:] or waits)} if waits else {}),
        # As of the last step, since the others save nothing after theirs.
        "peak_bytes": int(max(step["memory_bytes"] for step in steps)),
        "whole_peak_bytes": ended.peak_bytes,
        "versions": {"torch": version("torch"), "firstlight": f"{__version__} {_commit()}".strip()},
    }


def _commit() -> str:
    """Of this checkout, with a + where the package's files are not those of the commit; nothing where it is none."""
    found = [
        subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout.strip()
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "src"))
    ]
    return found[0] + ("+" if found[1] else "")


def _spans(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median seconds of each part of a step, after the warm-up."""
    names = {name for step in steps for name in step if name.startswith("seconds/")}
    after = steps[WARM_UP_STEPS:] or steps
    return {name.removeprefix("seconds/"): statistics.median(step.get(name, 0.0) for step in after) for name in names}
