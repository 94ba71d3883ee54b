"""MindFormers' second kind of checkpoint: `iteration_NNNNNNNN/` with safetensors files and `metadata.json`.

The metadata say of each tensor how it is cut, and which file holds which block. A block is numbered in the grid of
blocks, row by row; offsets in elements are understood as well. Without metadata, the files hold whole tensors.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError
from firstlight.convert.assembled import AssembledTensors, Block
from firstlight.convert.mindformers_weights import MOMENT_PREFIXES
from firstlight.convert.safetensors_files import SafetensorsFiles, read_tensor, stored_tensors
from firstlight.convert.source import StoredTensor, WeightSource

_FOLDER = re.compile(r"iteration_(\d{8})")
_TRACKER = "latest_checkpointed_iteration.txt"
_METADATA = "metadata.json"


def is_block_folder(folder: Path) -> bool:
    """Whether `folder` is such a checkpoint, or holds some."""
    return bool(_FOLDER.fullmatch(folder.name) and folder.is_dir()) or (folder / _TRACKER).is_file()


def open_blocks(folder: Path, *, at: str | None = None) -> WeightSource:
    """The checkpoint in `folder`, or of those in it the one that was finished last, or of the step `at`.

    Raises InputError.
    """
    chosen = folder if _FOLDER.fullmatch(folder.name) else _chosen(folder, at)
    if not chosen.is_dir():
        raise InputError(f"{chosen} does not exist")
    metadata = chosen / _METADATA
    if not metadata.is_file():
        files = sorted(chosen.glob("*.safetensors"))
        if not files:
            raise InputError(f"{chosen} holds neither {_METADATA} nor .safetensors files")
        return SafetensorsFiles(chosen, files)
    return _Metadata.read(metadata).assembled(chosen)


def _chosen(folder: Path, at: str | None) -> Path:
    if at is not None and not at.isdigit():
        raise InputError(f"{at} is no step; the checkpoints in {folder} are chosen by a number, such as 20")
    if at is not None:
        return folder / f"iteration_{int(at):08d}"
    tracker = folder / _TRACKER
    try:
        return folder / f"iteration_{int(tracker.read_text(encoding='utf-8').strip()):08d}"
    except (OSError, ValueError) as error:
        raise InputError(f"{tracker} does not say which checkpoint is the newest: {error}") from None


@dataclass(frozen=True, kw_only=True)
class _Metadata:
    """The file's two tables: how tensors are cut, and in which files blocks lie."""

    path: Path
    tensors: Mapping[str, Any]
    storage: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "_Metadata":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(path=path, tensors=dict(content["state_dict_metadata"]), storage=dict(content["storage_data"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path} cannot be read: {error!r}") from None

    def assembled(self, folder: Path) -> AssembledTensors:
        """The tensors that are cut as the metadata say."""
        stored: dict[Path, dict[str, StoredTensor]] = {}
        blocks: dict[str, list[Block]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, facts in self.tensors.items():
            try:
                shape = _sizes(facts["global_shape"])
                places = list(self._places(name, facts, shape))
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                raise InputError(f"{self.path}: {name} is not described as it should be: {error!r}") from None
            if name.startswith(MOMENT_PREFIXES) and not all((folder / file).is_file() for _, _, file in places):
                continue  # The optimizer's files need not be copied along.
            shapes[name] = shape
            for offset, sizes, file in places:
                here = stored.setdefault(folder / file, {}) or stored_tensors(folder / file)
                stored[folder / file] = here
                found = here.get(name)
                if found is None or found.shape != sizes:
                    raise InputError(
                        f"{folder / file}: {name} has shape {found and list(found.shape)}, "
                        f"{_METADATA} says {list(sizes)}"
                    )
                read = partial(read_tensor, folder / file, name)
                blocks.setdefault(name, []).append(Block(offset=offset, stored=found, read=read))
        return AssembledTensors(folder, (self.path, *stored), blocks, shapes)

    def _places(
        self, name: str, facts: Mapping[str, Any], whole: tuple[int, ...]
    ) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], str]]:
        """Of each block: offset and shape in elements, and the name of a file that has it."""
        grid = _sizes(facts["axis_fragmentations"])
        numbers = [_sizes(chunk["global_offset"]) for chunk in facts["chunk"]]
        is_number = all(len(number) == 1 and number[0] < math.prod(grid) for number in numbers)
        for number, chunk in zip(numbers, facts["chunk"], strict=True):
            shape = _sizes(chunk["local_shape"])
            file = str(self.storage[str((name, number))][0]["file_name"])
            if Path(file).name != file:
                raise ValueError(f"it names {file}, outside of its folder")
            at = _coordinates(number[0], grid) if is_number else number
            offset = tuple(one * size for one, size in zip(at, shape, strict=True)) if is_number else at
            if len(offset) != len(whole):
                raise ValueError(f"the offset {number} is not one of {len(whole)} dimensions")
            yield offset, shape, file


def _coordinates(number: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    out: list[int] = []
    for size in reversed(grid):
        number, at = divmod(number, size)
        out.insert(0, at)
    return tuple(out)


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or any(type(value) is not int or value < 0 for value in values):
        raise ValueError(f"{values!r} are not sizes")
    return tuple(values)
