"""A run's output folder: what lies where, and whose run it is."""

import hashlib
import json
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger
from firstlight.base.traces import LOGS
from firstlight.checkpoint.files import replace_durably
from firstlight.config.load import dump, load
from firstlight.config.schema import RunConfig
from firstlight.data.tokenizer import OTHER_LIBRARIES, load_tokenizer, tokenizer_file

_FREE_SECTIONS = ("parallelism", "recompute", "offload", "checkpoint", "resilience", "monitor")
"""Sections that may change when a run goes on: they say how it is computed and watched, not what."""

_FREE_KEYS = (
    "model.from_hf",
    "data.evaluate",
    "data.tokenizer",
    "data.train.sources",
    "training.micro_batch_size",
    "training.evaluate_every_steps",
    "training.evaluate_samples",
    "training.output_folder",
    "training.stop_at_step",
    "training.deterministic",
)
"""Likewise; the training data is held to its fingerprint in the checkpoint, wherever its files lie."""

TOKENIZER, DATA, REGISTERED = "tokenizer", "data", "registered_model"
"""Names of changes that no key of the configuration shows: contents, by their SHA-256."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What is not as it was in the earlier part of a run."""

    name: str
    there: Any
    here: Any

    def is_in(self, names: Collection[str]) -> bool:
        """Whether it, or a section that it is in, is named."""
        return any(self.name == name or self.name.startswith(f"{name}.") for name in names)

    def __str__(self) -> str:
        return f"{self.name}: {self.there!r} there, {self.here!r} here"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Paths within an output folder."""

    path: Path

    @property
    def configuration(self) -> Path:
        return self.path / "config.yaml"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    @property
    def mindformers_files(self) -> Path:
        """Weights where MindFormers has them."""
        return self.path / "checkpoint" / "rank_0"

    @property
    def facts(self) -> Path:
        return self.path / "run.json"

    @property
    def logs(self) -> Path:
        """Traces of ranks that failed."""
        return self.path / LOGS

    @property
    def stop_request(self) -> Path:
        """A file that asks the run to save and stop, however it came there."""
        return self.path / "stop"

    @property
    def avoided_samples(self) -> Path:
        """Samples that the run leaves out, each range with the rewind that it comes from."""
        return self.path / "avoided-samples.jsonl"

    @property
    def faults(self) -> Path:
        """What went wrong and what it cost; the supervisor adds to it too."""
        return self.path / "faults.jsonl"

    @property
    def planted_faults(self) -> Path:
        """Marks of the faults that have happened, so that each happens once."""
        return self.path / "planted-faults"

    @property
    def identity(self) -> str:
        """A name that no other run has, made when the folder is claimed."""
        return self._identity_file.read_text().strip()

    @property
    def is_claimed(self) -> bool:
        """Whether it is a run's."""
        return self._identity_file.exists()

    @property
    def _identity_file(self) -> Path:
        return self.path / "identity"

    @property
    def accepted_changes(self) -> Path:
        return self.path / "accepted-changes.jsonl"

    def claim(self, config: RunConfig, accepted: Collection[str] = (), *, code: str | None = None) -> None:
        """Make the folder this run's own: create it, or check that it holds an earlier part of the same run.

        `code` is the digest of a model class of the user's own.
        A difference is let pass, and recorded, when its key or a section that it is in is among `accepted`.
        Raises InputError when it belongs to another run, or holds something else. The first rank calls it.
        """
        differences: list[Difference] = []
        if self.configuration.exists():
            differences = [
                *_differences(load(self.configuration).config, config),
                *self._tokenizer_difference(config),
                *self._code_difference(code),
            ]
            refused = [one for one in differences if not one.is_in(accepted)]
            if refused:
                lines = "\n".join(f"  {one}" for one in refused)
                raise InputError(
                    f"{self.path} holds another run, which differs in:\n{lines}\n"
                    "Use another training.output_folder, or the configuration that the run was started with, "
                    "or --accept-change with the name of each"
                )
        elif self._foreign_files():
            raise InputError(
                f"{self.path} is not empty and holds no run (no config.yaml); use another training.output_folder"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for one in differences:
                self.record_change(one)
            self._write(self.configuration, dump(config))
            if not self.is_claimed:
                self._write(self._identity_file, uuid.uuid4().hex)
            if config.data.tokenizer != self.tokenizer:
                self.tokenizer.write_bytes(_as_tokenizer_json(config.data.tokenizer))
        except OSError as error:
            raise InputError(f"training.output_folder = {self.path} cannot be written: {error}") from None

    def keep(self, texts: Mapping[str, str]) -> None:
        """Write files, by their names, beside the configuration: what it was made from."""
        for name, text in texts.items():
            self._write(self.path / name, text)

    def record_change(self, change: "Difference") -> None:
        """Add a line about an accepted change to `accepted-changes.jsonl`."""
        get_logger().warning(f"accepted change: {change}")
        line = json.dumps({"time": time.time(), "name": change.name, "there": change.there, "here": change.here})
        before = self.accepted_changes.read_text() if self.accepted_changes.exists() else ""
        self._write(self.accepted_changes, f"{before}{line}\n")

    def _tokenizer_difference(self, config: RunConfig) -> "Iterator[Difference]":
        given = config.data.tokenizer
        if self.tokenizer.exists() and given.exists():
            kept, content = self.tokenizer.read_bytes(), _as_tokenizer_json(given)
            there, here = (hashlib.sha256(one).hexdigest()[:16] for one in (kept, content))
            if there != here:
                yield Difference(name=TOKENIZER, there=there, here=here)

    @property
    def registered_code(self) -> str | None:
        """The digest of the model class that the run was trained with; None where it was the family's."""
        facts = json.loads(self.facts.read_text()) if self.facts.exists() else {}
        digest: str | None = facts.get(REGISTERED, {}).get("sha256")
        return digest

    def _code_difference(self, code: str | None) -> "Iterator[Difference]":
        if self.facts.exists() and self.registered_code != code:
            there, here = (one and one[:16] for one in (self.registered_code, code))
            yield Difference(name=REGISTERED, there=there, here=here)

    def _write(self, path: Path, text: str) -> None:
        try:
            replace_durably(path, text.encode())
        except OSError as error:
            raise InputError(f"training.output_folder = {self.path} cannot be written: {error}") from None

    def _foreign_files(self) -> bool:
        """Whether something lies here that neither a run has left, be it one that was killed while it claimed the
        folder, nor a launcher that keeps its logs here, nor a list of samples to leave out."""
        if not self.path.is_dir():
            return False
        ours = (
            self.configuration.name,
            self.logs.name,
            "lock-",
            "job-token",
            self.faults.name,
            self.avoided_samples.name,
            "converted-weights",
        )
        return any(not entry.name.startswith(ours) and not _holds_logs(entry) for entry in self.path.iterdir())

    def record_facts(self, facts: Mapping[str, Any]) -> None:
        """Write `run.json`: what the run is made of, and what it runs on."""
        self._write(self.facts, json.dumps(facts, indent=1) + "\n")


def _holds_logs(entry: Path) -> bool:
    """Whether this is a folder with no other files than NAME.log, in whatever folders."""
    return entry.is_dir() and all(file.suffix == ".log" or file.is_dir() for file in entry.rglob("*"))


def _as_tokenizer_json(path: Path) -> bytes:
    """The content of a tokenizer.json, whatever kind of tokenizer `path` names."""
    file = tokenizer_file(path)
    if file.suffix in OTHER_LIBRARIES:
        return load_tokenizer(path).to_str(pretty=True).encode()
    return file.read_bytes()


def open_run(path: Path) -> tuple[RunFolder, RunConfig]:
    """An existing run's folder and configuration. Raises InputError when there is none."""
    folder = RunFolder(path=path)
    if not folder.configuration.exists():
        raise InputError(f"{path} is not a run's output folder: it has no config.yaml")
    return folder, load(folder.configuration).config


def _differences(old: RunConfig, new: RunConfig) -> Iterator[Difference]:
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    for key in sorted(before.keys() | after.keys()):
        is_free = key.partition(".")[0] in _FREE_SECTIONS or any(key.startswith(free) for free in _FREE_KEYS)
        if not is_free and before.get(key) != after.get(key):
            yield Difference(name=key, there=before.get(key), here=after.get(key))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
