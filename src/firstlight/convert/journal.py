"""How far a conversion is: kept beside its files while it runs, so that it can be gone on with after a kill."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firstlight.checkpoint.files import replace_durably

JOURNAL = "conversion.json"


@dataclass(frozen=True, kw_only=True)
class FileProgress:
    """What of a file is on disk: entries of the plan, bytes, the CRC-32 of these, and whether it is whole."""

    num_entries: int = 0
    num_bytes: int = 0
    crc: int = 0
    is_finished: bool = False


class Journal:
    """The progress of the files in `folder`, for one `request`: what was asked for, of which input.

    A journal of another request, or one that cannot be read, counts as none: `was_there` is false.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self._path = folder / JOURNAL
        self._request = json.loads(json.dumps(request))
        self._files = self._read(folder)
        self.was_there = bool(self._files)

    def progress(self, file: str) -> FileProgress:
        """How far the file is."""
        return self._files.get(file, FileProgress())

    def begin(self) -> None:
        """Keep the request, so that the folder shows whose it is."""
        self._write()

    def record(self, file: str, progress: FileProgress) -> None:
        """Keep it, durably. The bytes that it counts must be on disk."""
        self._files[file] = progress
        self._write()

    def _write(self) -> None:
        content = {"request": self._request, "files": {name: asdict(one) for name, one in self._files.items()}}
        replace_durably(self._path, json.dumps(content, indent=1).encode())

    def _read(self, folder: Path) -> dict[str, FileProgress]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            files = {name: FileProgress(**one) for name, one in content["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        if content.get("request") != self._request:
            return {}
        return {name: one for name, one in files.items() if _is_there(folder / name, one)}


def _is_there(path: Path, progress: FileProgress) -> bool:
    """Whether the file has the bytes that are counted; one that was changed by someone else is written anew."""
    try:
        size = path.stat().st_size
    except OSError:
        return False
    return size == progress.num_bytes if progress.is_finished else size >= progress.num_bytes
