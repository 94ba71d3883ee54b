"""The folder that serves as MINDFORMERS_HOME: scripts of MindFormers' names and our own YAML files."""

import shutil
from pathlib import Path

from firstlight.base.errors import InputError

_PACKAGED = Path(__file__).parent / "home"
_USERS_OWN = frozenset({".yaml", ".json"})


def make_home(folder: Path) -> Path:
    """Make `folder` ready, or see that it is. YAML and JSON files that are there may be the user's, and stay.

    Beside it is an empty `dataset`, where the guide has its data. Raises InputError when it cannot be written.
    """
    try:
        for packaged in sorted(path for path in _PACKAGED.rglob("*") if path.is_file()):
            if "__pycache__" not in packaged.parts:
                _put(packaged, folder / packaged.relative_to(_PACKAGED))
        (folder.parent / "dataset").mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"MINDFORMERS_HOME cannot be made in {folder}: {error}") from None
    return folder


def _put(packaged: Path, path: Path) -> None:
    """In place, and only where there is something to change: a script may be running."""
    if path.exists() and (path.suffix in _USERS_OWN or path.read_bytes() == packaged.read_bytes()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    shutil.copyfile(packaged, unfinished)
    unfinished.replace(path)
