"""MindFormers' first kind of checkpoint: `rank_N/PREFIX_rank_N-EPOCH_STEP`, a file of each rank with what it holds.

Which block of a tensor that is stands in strategy files, in a folder `strategy` beside the checkpoints. Where there
are none, every rank is taken to hold its tensors whole.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger
from firstlight.convert.assembled import AssembledTensors, Block
from firstlight.convert.mindspore_ckpt_reader import MindSporeCkpt
from firstlight.convert.mindspore_strategy import RankLayout, read_strategy, whole_layout
from firstlight.convert.safetensors_files import SafetensorsFiles
from firstlight.convert.source import StoredTensor, WeightSource

_RANK_FOLDER = re.compile(r"rank_(\d+)")
_FILE = re.compile(r".*-(\d+)_(\d+)\.(?:safetensors|ckpt)")
_STRATEGY = re.compile(r".*rank_(\d+)\.ckpt")

Moment = tuple[int, int]
"""Epoch, and step in it."""


def is_rank_folders(folder: Path) -> bool:
    """Whether there are folders of ranks in `folder`, or in its `checkpoint`."""
    return bool(_rank_folders(folder) or _rank_folders(folder / "checkpoint"))


def open_ranks(folder: Path, *, at: str | None = None, strategy: Path | None = None) -> AssembledTensors:
    """The newest checkpoint that all ranks have, or the one named by `at`, as in `1_20`.

    `folder` holds the ranks' folders, or a folder `checkpoint` that does. Raises InputError.
    """
    inner = folder if _rank_folders(folder) else folder / "checkpoint"
    ranks = _rank_folders(inner)
    if not ranks:
        raise InputError(f"{folder} holds no folders rank_0, rank_1 ...")
    files = _chosen(inner, ranks, at)
    layouts = _strategies(strategy or inner.parent / "strategy", is_named=strategy is not None)
    if not layouts and len(ranks) > 1:
        get_logger().warning(f"no strategy files for {inner}: each of its {len(ranks)} ranks must hold whole tensors")
    opened = {rank: _open(file) for rank, file in files.items()}
    parts = [
        _Part(rank=rank, name=name, stored=stored, source=source, file=files[rank])
        for rank, source in opened.items()
        for name, stored in source.tensors.items()
    ]
    blocks: dict[str, list[Block]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for part in parts:
        layout = part.layout(layouts)
        shape = layout.whole_shape(part.stored.shape)
        if shapes.setdefault(part.name, shape) != shape:
            raise InputError(f"{part.file}: {part.name} is of shape {list(shape)}, elsewhere {list(shapes[part.name])}")
        offset = layout.offset(part.rank, part.stored.shape)
        blocks.setdefault(part.name, []).append(Block(offset=offset, stored=part.stored, read=part.read))
    return AssembledTensors(inner, files.values(), blocks, shapes)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What a rank has of a tensor."""

    rank: int
    name: str
    stored: StoredTensor
    source: WeightSource
    file: Path

    def read(self) -> Tensor:
        return self.source.read(self.name)

    def layout(self, strategies: Mapping[int, Mapping[str, RankLayout]]) -> RankLayout:
        layout = strategies.get(self.rank, {}).get(self.name)
        try:
            return layout.of_dims(len(self.stored.shape)) if layout else whole_layout(len(self.stored.shape))
        except ValueError as error:
            raise InputError(f"{self.file}: {self.name} does not fit its strategy: {error}") from None


def _rank_folders(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    found = {int(match[1]): entry for entry in folder.iterdir() if (match := _RANK_FOLDER.fullmatch(entry.name))}
    return dict(sorted(found.items()))


def _chosen(folder: Path, ranks: Mapping[int, Path], at: str | None) -> dict[int, Path]:
    if list(ranks) != list(range(len(ranks))):
        missing = sorted(set(range(max(ranks) + 1)) - set(ranks))
        raise InputError(f"{folder} has no folder of rank {missing[0]}; copy those of all ranks there")
    files = {rank: _files(path) for rank, path in ranks.items()}
    shared = set.intersection(*(set(of_rank) for of_rank in files.values()))
    ended = [moment for path in ranks.values() if (moment := _ended(path)) is not None]
    if at is None:
        shared = {moment for moment in shared if not ended or moment <= min(ended)}
    else:
        shared = {moment for moment in shared if f"{moment[0]}_{moment[1]}" == at}
    if not shared:
        every = sorted({f"{epoch}_{step}" for of_rank in files.values() for epoch, step in of_rank})
        what = f"no checkpoint {at} of all ranks" if at else "no checkpoint that all ranks have finished"
        raise InputError(f"{folder} has {what}; some rank has {', '.join(every) or 'nothing'}")
    return {rank: of_rank[max(shared)] for rank, of_rank in files.items()}


def _files(folder: Path) -> dict[Moment, Path]:
    found: dict[Moment, Path] = {}
    for file in sorted(folder.iterdir()):
        match = _FILE.fullmatch(file.name)
        if match is None:
            continue
        moment = int(match[1]), int(match[2])
        if moment in found:
            raise InputError(f"{found[moment]} and {file} are of the same step; remove the one that is over")
        found[moment] = file
    return found


def _ended(folder: Path) -> Moment | None:
    """What the rank's meta.json says it has saved last; None where there is none."""
    path = folder / "meta.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return int(content["last_epoch"]), int(content["last_step"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {error!r}") from None


def _strategies(folder: Path, *, is_named: bool) -> dict[int, dict[str, RankLayout]]:
    found = {
        int(match[1]): read_strategy(file)
        for file in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if (match := _STRATEGY.fullmatch(file.name))
    }
    if is_named and not found:
        raise InputError(f"{folder} holds no strategy files (ckpt_strategy_rank_0.ckpt ...)")
    return found


def _open(file: Path) -> WeightSource:
    return MindSporeCkpt(file) if file.suffix == ".ckpt" else SafetensorsFiles(file, [file])
