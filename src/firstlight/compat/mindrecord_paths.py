"""The MindRecord sets that a `dataset_dir` or `dataset_files` means: MindFormers searches folders for them."""

import re
from collections.abc import Sequence
from pathlib import Path

_SET = re.compile(r"(.*\.mindrecord)\d*")


def mindrecord_sets(written: Sequence[str]) -> list[str]:
    """Each path as it is, and in the place of a folder the sets below it, in the order of their names.

    The numbered files that a parallel writer leaves are one set, called by their common name.
    """
    return [found for path in written if path for found in _below(path)]


def _below(path: str) -> list[str]:
    folder = Path(path)
    if not folder.is_dir():
        return [path]
    names = [(file, _SET.fullmatch(file.name)) for file in sorted(folder.rglob("*")) if file.is_file()]
    sets = {str(file.with_name(match[1])): None for file, match in names if match is not None}
    return list(sets) or [path]
