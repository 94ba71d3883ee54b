"""How far the preparation of a data set got, on disk: one that was killed goes on from there."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firstlight.base.log import get_logger
from firstlight.data.corpus import CorpusPosition, Source
from firstlight.data.indexed_writer import WriterState, unfinished_paths
from firstlight.data.partial_file import SUFFIX, publish_partial, write_whole
from firstlight.data.rows import RowState
from firstlight.data.set_builder import SetSummary
from firstlight.data.set_files import SET_SUFFIXES, SetState

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What is done. `files` is empty until all are finished and need nothing but their names."""

    encoder: str
    reason: str | None
    """Why the encoder is not the fast one."""
    position: CorpusPosition
    num_left_out: int
    messages: Sequence[str]
    sets: Sequence[SetState]
    files: Sequence[str] = ()
    """Paths to be published, in order."""

    @property
    def place(self) -> str:
        """How far it is, in words."""
        if self.files:
            return "the last document: only names were left to be given"
        return f"{self.position.file:,} files and {self.position.documents:,} documents of the next one"


@dataclass(frozen=True, kw_only=True)
class JournalKey:
    """What a preparation is of: with another key, nothing of it can be used. Both are hex digests."""

    request: str
    """Of the arguments, the tokenizer and the versions of what encodes."""
    inputs: str
    """Of the names, sizes and times of change of all input files."""


class Journal:
    """The journal of the data sets at `prefix`, in `<prefix>.journal`."""

    def __init__(self, prefix: Path, key: JournalKey) -> None:
        self._path = Path(f"{prefix}.journal")
        self._prefix = prefix
        self._key = key

    def read(self) -> Progress | None:
        """What an earlier preparation of the same got done; None, with a message, if there is nothing of use."""
        if not self._path.is_file():
            return None
        try:
            content = json.loads(self._path.read_bytes())
            reason = self._objection(content)
            progress = None if reason else _progress(content)
        except (ValueError, KeyError, TypeError):
            reason = "its journal is damaged"
        if reason is None and progress is not None and not progress.files and not self._is_there(progress):
            reason = "what it wrote is not there any more"
        if reason is not None:
            get_logger().warning("an earlier run to %s cannot be continued: %s; starting over", self._prefix, reason)
            return None
        return progress

    def write(self, progress: Progress) -> None:
        """Put `progress` in place of what the journal said before. What it tells of must be on disk."""
        content = {"version": _VERSION, "key": asdict(self._key), "progress": asdict(progress)}
        write_whole(self._path, json.dumps(content).encode())

    def publish(self, files: Sequence[str]) -> None:
        """Give the finished files their names, those that have them already aside, and remove all else."""
        for path in map(Path, files):
            if Path(f"{path}{SUFFIX}").exists():
                publish_partial(path)
        self.sweep()

    def sweep(self) -> None:
        """Remove the journal and what preparations to the same prefix left unfinished."""
        self._path.unlink(missing_ok=True)
        for path in self._unfinished():
            path.unlink(missing_ok=True)

    def _objection(self, content: Any) -> str | None:
        if content["version"] != _VERSION:
            return "another version wrote its journal"
        if content["key"]["request"] != self._key.request:
            return "it had other arguments, another tokenizer or another version of it"
        if content["key"]["inputs"] != self._key.inputs:
            return "the input has changed since"
        return None

    def _is_there(self, progress: Progress) -> bool:
        prefixes = [Path(f"{self._prefix}{suffix}") for suffix in SET_SUFFIXES]
        return all(one.writer.is_there(prefix) for prefix, one in zip(prefixes, progress.sets, strict=False))

    def _unfinished(self) -> list[Path]:
        paths = [Path(f"{self._prefix}{name}{SUFFIX}") for name in (".journal", ".json", ".histogram.npy")]
        for suffix in SET_SUFFIXES:
            paths += unfinished_paths(Path(f"{self._prefix}{suffix}"))
        return paths


def _progress(content: Any) -> Progress:
    fields = dict(content["progress"])
    position = dict(fields["position"])
    position["sources"] = [Source(**one) for one in position["sources"]]
    fields["position"] = CorpusPosition(**position)
    fields["sets"] = [
        SetState(
            writer=WriterState(**one["writer"]),
            rows=None if one["rows"] is None else RowState(**one["rows"]),
            summary=SetSummary(**one["summary"]),
        )
        for one in fields["sets"]
    ]
    return Progress(**fields)
