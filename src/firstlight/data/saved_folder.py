"""Folders that `datasets.save_to_disk` wrote: which Arrow files hold a data set, in which order."""

import json
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from firstlight.base.errors import InputError

_STATE = "state.json"
_SPLITS = "dataset_dict.json"


def is_saved_folder(folder: Path) -> bool:
    """Whether `datasets` saved a data set, or several by name, in `folder`."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def saved_files(folder: Path, split: str | None = None) -> list[Path]:
    """The Arrow files of the data set in `folder`, or of the one called `split` where there are several.

    Without `split`, the only one that there is. Raises InputError when it is not known which, or a file is missing.
    """
    if (folder / _STATE).is_file():
        return _files_of_state(folder)
    names = _content(folder / _SPLITS).get("splits")
    if not isinstance(names, list) or not names or not all(_is_name(name) for name in names):
        _refuse(folder / _SPLITS, "it names no splits")
    wanted = names[0] if split is None and len(names) == 1 else split
    if not _is_name(wanted) or wanted not in names:
        found = ", ".join(names)
        raise InputError(
            f"{folder} holds the data sets {found}; name one of these folders, or one of them as its split"
        )
    return _files_of_state(folder / wanted)


def _files_of_state(folder: Path) -> list[Path]:
    entries = _content(folder / _STATE).get("_data_files")
    if not isinstance(entries, list) or not entries:
        _refuse(folder / _STATE, "it names no data files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    files = [folder / name for name in names if _is_name(name)]
    if len(files) < len(names):
        _refuse(folder / _STATE, "its data files are not names of files in its folder")
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} does not exist, but {folder / _STATE} names it; copy the folder again")
    return files


def _is_name(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and bool(name) and Path(name).name == name and "\0" not in name


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        _refuse(path, f"it is not JSON ({error})")
    if not isinstance(content, dict):
        _refuse(path, "it is no JSON object")
    return content


def _refuse(path: Path, fault: str) -> NoReturn:
    raise InputError(f"{path} is not what datasets.save_to_disk writes: {fault}; save the data set again")
