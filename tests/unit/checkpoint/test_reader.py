"""A checkpoint of any number of ranks is read into the layout of any other."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from firstlight.base.errors import NoCheckpointError
from firstlight.checkpoint.disk import LocalDisk
from firstlight.checkpoint.manifest import FileRecord, Manifest, ShardRecord, TensorRecord, UnusableCheckpoint
from firstlight.checkpoint.shards import LocalShard
from firstlight.checkpoint.writer import write_tensors
from tests.unit.checkpoint.reading import read_shards, read_tensors
from tests.unit.checkpoint.state import MODEL_FILE, State, blank, checkpointer, same_bits, saved

WEIGHT, BIAS = "model/weight", "model/bias"


def whole(rows: int) -> dict[str, Tensor]:
    """The tensors that are cut into shards."""
    return {WEIGHT: torch.arange(rows * 3.0).view(rows, 3) + 0.5, BIAS: torch.arange(100.0, 100.0 + rows)}


def write_shards(folder: Path, tensors: dict[str, Tensor], cuts: Sequence[int]) -> Manifest:
    """Write `tensors` as ranks would that hold the rows between `cuts`; an empty shard is not written."""
    bounds = [0, *cuts, len(tensors[WEIGHT])]
    files: dict[str, FileRecord] = {}
    shards: dict[str, list[ShardRecord]] = {name: [] for name in tensors}
    for rank, (begin, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        if begin == end:
            continue
        file = f"model-{rank + 1:05d}-of-{len(bounds) - 1:05d}.safetensors"
        blocks = {name: tensor[begin:end] for name, tensor in tensors.items()}
        files[file] = write_tensors(
            LocalDisk(), folder / file, {name.partition("/")[2]: block for name, block in blocks.items()}
        )
        for name, block in blocks.items():
            offset = (begin,) + (0,) * (block.ndim - 1)
            shards[name].append(ShardRecord(file=file, offset=offset, shape=tuple(block.shape)))
    records = {
        name: TensorRecord(dtype="F32", shape=tuple(tensor.shape), shards=tuple(shards[name]))
        for name, tensor in tensors.items()
    }
    return Manifest(step=2, world_size=len(bounds) - 1, state={}, configuration={}, files=files, tensors=records)


def read_rows(folder: Path, manifest: Manifest, like: dict[str, Tensor], begin: int, end: int) -> dict[str, Tensor]:
    """What a rank reads that holds the rows from `begin` to `end`."""
    blocks = {name: torch.full_like(tensor[begin:end], -1) for name, tensor in like.items()}

    shards = {
        name: LocalShard(
            data=block,
            global_shape=tuple(like[name].shape),
            offset=(begin,) + (0,) * (block.ndim - 1),
            is_written=False,
        )
        for name, block in blocks.items()
    }
    read_shards(folder, manifest, shards)
    return blocks


@st.composite
def cuts(draw: st.DrawFn, rows: int) -> list[int]:
    """Where 1 to 4 ranks divide `rows` rows; a rank may have none."""
    return sorted(draw(st.lists(st.integers(0, rows), min_size=0, max_size=3)))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), rows=st.integers(1, 9))
def test_rows_are_read_in_any_division(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tensors = whole(rows)
    manifest = write_shards(folder, tensors, data.draw(cuts(rows)))
    bounds = [0, *data.draw(cuts(rows)), rows]
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        blocks = read_rows(folder, manifest, tensors, begin, end)
        assert all(block.equal(tensors[name][begin:end]) for name, block in blocks.items())


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_shards_are_read_into_whole_tensors(tmp_path: Path, ranks: int) -> None:
    tensors = whole(8)
    step = -(-8 // ranks)
    manifest = write_shards(tmp_path, tensors, [min(8, rank * step) for rank in range(1, ranks)])
    assert len(manifest.files) == ranks
    filled = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    read_tensors(tmp_path, manifest, filled)
    assert all(filled[name].equal(tensor) for name, tensor in tensors.items())


def test_files_are_closed_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a thousand ranks must not be open at once."""
    tensors = whole(60)
    manifest = write_shards(tmp_path, tensors, list(range(1, 60)))
    filled = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    num_open: list[int] = []
    read = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda *given: (num_open.append(len(os.listdir("/proc/self/fd"))), read(*given))[1]
    )
    read_tensors(tmp_path, manifest, filled)
    assert all(filled[name].equal(tensor) for name, tensor in tensors.items())
    assert max(num_open) < min(num_open) + 15


def test_only_files_that_hold_a_part_of_it_are_touched(tmp_path: Path) -> None:
    tensors = whole(8)
    manifest = write_shards(tmp_path, tensors, [2, 4, 6])
    for file in sorted(manifest.files)[2:]:
        (tmp_path / file).unlink()
    blocks = read_rows(tmp_path, manifest, tensors, 1, 4)
    assert blocks[WEIGHT].equal(tensors[WEIGHT][1:4])
    with pytest.raises(UnusableCheckpoint, match=r"model-00003-of-00004\.safetensors cannot be read"):
        read_rows(tmp_path, manifest, tensors, 1, 5)


def test_blocks_may_be_cut_along_any_dim(tmp_path: Path) -> None:
    tensor = torch.arange(24.0).view(4, 6)
    files, shards = {}, []
    for number, (row, column) in enumerate([(0, 0), (0, 4), (2, 0), (2, 4)]):
        block = tensor[row : row + 2, column : column + (4 if column == 0 else 2)]
        file = f"model-{number + 1:05d}-of-00004.safetensors"
        files[file] = write_tensors(LocalDisk(), tmp_path / file, {"weight": block.contiguous()})
        shards.append(ShardRecord(file=file, offset=(row, column), shape=tuple(block.shape)))
    record = TensorRecord(dtype="F32", shape=(4, 6), shards=tuple(shards))
    manifest = Manifest(step=2, world_size=4, state={}, configuration={}, files=files, tensors={WEIGHT: record})
    filled = torch.zeros(4, 6)
    read_tensors(tmp_path, manifest, {WEIGHT: filled})
    assert filled.equal(tensor)


def test_a_hole_between_shards_is_noticed(tmp_path: Path) -> None:
    tensors = whole(8)
    manifest = write_shards(tmp_path, tensors, [2, 4])
    record = manifest.tensors[WEIGHT]
    torn = record.model_copy(update={"shards": (record.shards[0], record.shards[2])})
    manifest = manifest.model_copy(update={"tensors": manifest.tensors | {WEIGHT: torn}})
    with pytest.raises(UnusableCheckpoint, match=r"18 of 24 elements of model/weight are there"):
        read_tensors(tmp_path, manifest, {WEIGHT: torch.zeros(8, 3)})


def test_a_shard_twice_does_not_fill_a_hole(tmp_path: Path) -> None:
    tensors = whole(8)
    manifest = write_shards(tmp_path, tensors, [4])
    record = manifest.tensors[WEIGHT]
    torn = record.model_copy(update={"shards": (record.shards[0], record.shards[0])})
    manifest = manifest.model_copy(update={"tensors": manifest.tensors | {WEIGHT: torn}})
    with pytest.raises(UnusableCheckpoint, match="model/weight"):
        read_tensors(tmp_path, manifest, {WEIGHT: torch.zeros(8, 3)})


def test_what_is_not_asked_for_is_not_needed(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    state = State(7)
    del state.live["optimizer/exp_avg/scale"]
    assert checkpointer(tmp_path).restore(state) == 2


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 2)
    state = blank()
    state.live["model/new"] = torch.zeros(2)
    with pytest.raises(NoCheckpointError, match="none of the 1 checkpoints"):
        checkpointer(tmp_path).restore(state)
    assert caplog.messages == [f"checkpoint passed over: {tmp_path / 'step-00000002'} has no tensor model/new"]


def test_a_scalar_comes_back(tmp_path: Path) -> None:
    record = write_tensors(LocalDisk(), tmp_path / MODEL_FILE, {"scale": torch.tensor(2.5)})
    shard = ShardRecord(file=MODEL_FILE, offset=(), shape=())
    manifest = Manifest(
        step=2,
        world_size=1,
        state={},
        configuration={},
        files={MODEL_FILE: record},
        tensors={"model/scale": TensorRecord(dtype="F32", shape=(), shards=(shard,))},
    )
    scale = torch.tensor(0.0)
    read_tensors(tmp_path, manifest, {"model/scale": scale})
    assert same_bits(scale, torch.tensor(2.5))
