"""MindFormers' two kinds of checkpoint folders: blocks of ranks put together to whole tensors, or refused."""

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.convert.formats import format_of
from firstlight.convert.mindformers_blocks import open_blocks
from firstlight.convert.mindformers_ranks import open_ranks
from firstlight.convert.mindspore_ckpt_writer import MindSporeCkptWriter
from firstlight.convert.wire import bytes_field, integer_field
from tests.unit.convert.mutations import mutated

Axes = Sequence[int | Sequence[int]]
"""For each dimension the axis that cuts it, counted from the right of the device matrix; several; or -1."""


def signed_field(number: int, value: int) -> bytes:
    return integer_field(number, value % (1 << 64))


def strategy_item(name: str, matrix: Sequence[int], axes: Axes, shards: tuple[int, int] = (0, 0)) -> bytes:
    """A parameter's layout as MindSpore writes it; `shards` are step and size of the optimizer's sharding."""
    has_several = any(not isinstance(dim, int) for dim in axes)
    maps = [[dim] if isinstance(dim, int) else list(dim) for dim in axes] if has_several else [list(axes)]
    content = bytes_field(1, b"".join(integer_field(1, size) for size in matrix))
    content += b"".join(bytes_field(2, b"".join(signed_field(1, axis) for axis in one)) for one in maps)
    content += bytes_field(3, b"") + bytes_field(4, b"")
    content += integer_field(5, 0) + integer_field(6, shards[0]) + signed_field(7, shards[1])
    return bytes_field(3, bytes_field(1, name.encode()) + bytes_field(2, content))


def block(tensor: Tensor, matrix: Sequence[int], axes: Axes, rank: int, optimizer_size: int = 1) -> Tensor:
    """The rank's block, cut dimension by dimension; then along the first among the ranks that hold the same."""
    at = [int(one) for one in np.unravel_index(rank, matrix)]
    cut: set[int] = set()
    for dim, axis in enumerate(axes):
        for one in [axis] if isinstance(axis, int) else axis:
            if one != -1:
                place = len(matrix) - 1 - one
                cut.add(place)
                tensor = tensor.chunk(matrix[place], dim)[at[place]]
    if optimizer_size > 1:
        alike = [place for place in range(len(matrix)) if place not in cut]
        number = int(np.ravel_multi_index([at[one] for one in alike], [matrix[one] for one in alike]))
        tensor = tensor.chunk(optimizer_size)[number % optimizer_size]
    return tensor.contiguous()


MATRIX = (2, 2, 2)
CUTS: dict[str, tuple[Axes, tuple[int, int]]] = {
    "whole": ((-1, -1), (0, 0)),
    "rows": ((0, -1), (0, 0)),
    "columns": ((-1, 1), (0, 0)),
    "both": ((2, 0), (0, 0)),
    "rows_by_two": (((2, 0), -1), (0, 0)),
    "columns_by_two": ((-1, (0, 1)), (0, 0)),
    "sharded": ((-1, 0), (2, 4)),
    "sharded_in_half": ((-1, 0), (2, 2)),
    "sharded_rows": ((1, -1), (1, -1)),
    "vector": ((0,), (0, 0)),
    "vector_by_two": (((1, 0),), (0, 0)),
    "number": ((), (0, 0)),
}


def whole_tensor(name: str) -> Tensor:
    shape = {"number": (), "vector": (16,), "vector_by_two": (16,)}.get(name, (16, 8))
    seed = torch.Generator().manual_seed(sorted(CUTS).index(name))
    return torch.randn(shape, generator=seed)


def shard_count(axes: Axes, shards: tuple[int, int]) -> int:
    cut = {one for dim in axes for one in ([dim] if isinstance(dim, int) else dim)}
    alike = math.prod(size for place, size in enumerate(MATRIX) if len(MATRIX) - 1 - place not in cut)
    return alike if shards[1] == -1 else max(shards[1], 1)


def write_ranks(output: Path, *, as_ckpt: bool = False, without: Sequence[str] = ()) -> None:
    """Checkpoint and strategy files of eight ranks, of all cuts but some."""
    cuts = {name: cut for name, cut in CUTS.items() if name not in without}
    (output / "strategy").mkdir(parents=True)
    for rank in range(8):
        tensors = {
            name: block(whole_tensor(name), MATRIX, axes, rank, shard_count(axes, shards))
            for name, (axes, shards) in cuts.items()
        }
        items = b"".join(strategy_item(name, MATRIX, axes, shards) for name, (axes, shards) in cuts.items())
        (output / "strategy" / f"ckpt_strategy_rank_{rank}.ckpt").write_bytes(integer_field(1, 0) + items)
        write_rank(output, rank, "1_5", tensors, as_ckpt=as_ckpt)


def write_rank(output: Path, rank: int, at: str, tensors: dict[str, Tensor], *, as_ckpt: bool = False) -> Path:
    folder = output / "checkpoint" / f"rank_{rank}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tiny_rank_{rank}-{at}.{'ckpt' if as_ckpt else 'safetensors'}"
    if as_ckpt:
        with path.open("wb") as file:
            writer = MindSporeCkptWriter(file=file)
            for name, tensor in tensors.items():
                writer.add(name, tensor)
    else:
        save_file(tensors, path, metadata={"format": "ms"})
    return path


def write_meta(output: Path, rank: int, epoch: int, step: int) -> None:
    content = {"last_epoch": epoch, "last_step": step, "last_ckpt_file": "x"}
    (output / "checkpoint" / f"rank_{rank}" / "meta.json").write_text(json.dumps(content))


@pytest.mark.parametrize("as_ckpt", [False, True])
def test_blocks_of_ranks_make_whole_tensors(tmp_path: Path, as_ckpt: bool) -> None:
    write_ranks(tmp_path, as_ckpt=as_ckpt)
    assert format_of(tmp_path).name == format_of(tmp_path / "checkpoint").name == "mindformers-ranks"
    for folder in (tmp_path, tmp_path / "checkpoint"):
        found = open_ranks(folder)
        assert found.tensors.keys() == CUTS.keys()
        for name in CUTS:
            assert torch.equal(found.read(name), whole_tensor(name)), name


def test_a_missing_rank_and_a_missing_block(tmp_path: Path) -> None:
    write_ranks(tmp_path)
    last = tmp_path / "checkpoint" / "rank_7"
    last.rename(tmp_path / "aside")
    with pytest.raises(InputError, match=r"blocks of \w+ cover 112 of 128 elements"):
        open_ranks(tmp_path)
    (tmp_path / "aside").rename(last)
    (tmp_path / "checkpoint" / "rank_3").rename(tmp_path / "aside")
    with pytest.raises(InputError, match="no folder of rank 3"):
        open_ranks(tmp_path)


def test_without_strategies_ranks_must_hold_the_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for rank in range(2):
        write_rank(tmp_path, rank, "1_5", {"x": torch.ones(3), f"stage_{rank}": torch.full((2,), float(rank))})
    found = open_ranks(tmp_path)
    assert "no strategy files" in caplog.text
    assert found.read("stage_1").tolist() == [1, 1]
    write_rank(tmp_path, 1, "1_6", {"x": torch.ones(4)})
    write_rank(tmp_path, 0, "1_6", {"x": torch.ones(3)})
    with pytest.raises(InputError, match=r"x is of shape \[4\], elsewhere \[3\]"):
        open_ranks(tmp_path)


def test_which_checkpoint_is_taken(tmp_path: Path) -> None:
    for at, number in (("1_5", 5.0), ("1_10", 10.0), ("2_1", 11.0)):
        write_rank(tmp_path, 0, at, {"x": torch.tensor([number])})
        write_rank(tmp_path, 1, at, {"x": torch.tensor([number])})
    write_rank(tmp_path, 0, "2_3", {"x": torch.tensor([13.0])})
    assert open_ranks(tmp_path).read("x").tolist() == [11]
    assert open_ranks(tmp_path, at="1_5").read("x").tolist() == [5]
    write_meta(tmp_path, 0, 2, 3)
    write_meta(tmp_path, 1, 1, 10)
    assert open_ranks(tmp_path).read("x").tolist() == [10]
    with pytest.raises(InputError, match="no checkpoint 2_3 of all ranks; some rank has 1_10, 1_5, 2_1, 2_3"):
        open_ranks(tmp_path, at="2_3")
    write_rank(tmp_path, 0, "1_10", {"x": torch.ones(1)}, as_ckpt=True)
    with pytest.raises(InputError, match="are of the same step"):
        open_ranks(tmp_path)


def test_damaged_facts_beside_the_weights(tmp_path: Path) -> None:
    write_ranks(tmp_path)
    strategy = tmp_path / "strategy" / "ckpt_strategy_rank_2.ckpt"
    good = strategy.read_bytes()
    for bad, message in (
        (good[:-3], "no strategy file"),
        (strategy_item("both", MATRIX, (5, 0)), "by an axis that the device matrix"),
        (strategy_item("both", (), (0, 0)), "has the device matrix"),
        (strategy_item("both", MATRIX, (0, 0, 1)), "is of 3 dimensions, the tensor has 2"),
        (strategy_item("both", (3, 2), (1, 0)), "several shapes|cover|elsewhere"),
    ):
        strategy.write_bytes(bad)
        with pytest.raises(InputError, match=message):
            open_ranks(tmp_path)
    strategy.write_bytes(good)
    (tmp_path / "checkpoint" / "rank_0" / "meta.json").write_text("{}")
    with pytest.raises(InputError, match="meta.json cannot be read"):
        open_ranks(tmp_path)
    write_meta(tmp_path, 0, 1, 5)
    with pytest.raises(InputError, match="holds no strategy files"):
        open_ranks(tmp_path, strategy=tmp_path / "nowhere")


GRIDS = {"whole": (1, 1), "rows": (4, 1), "both": (2, 4), "vector": (4,)}


def grid_blocks(name: str) -> Iterator[tuple[int, tuple[int, ...], Tensor]]:
    """Number, offset in elements, and values of each block."""
    grid, tensor = GRIDS[name], whole_tensor(name)
    for number, at in enumerate(np.ndindex(*grid)):
        sizes = [whole // count for whole, count in zip(tensor.shape, grid, strict=True)]
        offset = tuple(one * size for one, size in zip(at, sizes, strict=True))
        part = tuple(slice(begin, begin + size) for begin, size in zip(offset, sizes, strict=True))
        yield number, offset, tensor[part].contiguous()


def write_blocks(folder: Path, *, in_elements: bool = False) -> dict[str, Any]:
    folder.mkdir(parents=True)
    files: dict[str, dict[str, Tensor]] = {}
    facts: dict[str, Any] = {"state_dict_metadata": {}, "storage_data": {}}
    for name, grid in GRIDS.items():
        chunks = []
        for number, offset, values in grid_blocks(name):
            place = offset if in_elements else (number,)
            file = f"tiny-model-{number:07d}-0000008.safetensors"
            files.setdefault(file, {})[name] = values
            chunks.append({"global_offset": list(place), "local_shape": list(values.shape)})
            facts["storage_data"][str((name, place))] = [{"file_name": file, "storage_rank": number, "rank_group": [0]}]
        facts["state_dict_metadata"][name] = {
            "properties": {"dtype": "Float32", "replica_id": [0], "allow_shape_mismatch": False, "allow_to_save": True},
            "global_shape": list(whole_tensor(name).shape),
            "axis_fragmentations": list(grid),
            "layout": {},
            "chunk": chunks,
        }
    for file, tensors in files.items():
        save_file(tensors, folder / file, metadata={"format": "ms"})
    (folder / "metadata.json").write_text(json.dumps(facts))
    return facts


@pytest.mark.parametrize("in_elements", [False, True])
def test_blocks_by_metadata(tmp_path: Path, in_elements: bool) -> None:
    folder = tmp_path / "iteration_00000020"
    write_blocks(folder, in_elements=in_elements)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("20")
    assert format_of(folder).name == format_of(tmp_path).name == "mindformers-blocks"
    for found in (open_blocks(folder), open_blocks(tmp_path), open_blocks(tmp_path, at="20")):
        assert found.tensors.keys() == GRIDS.keys()
        for name in GRIDS:
            assert torch.equal(found.read(name), whole_tensor(name)), name


def test_a_folder_without_metadata_holds_whole_tensors(tmp_path: Path) -> None:
    folder = tmp_path / "iteration_00000001"
    folder.mkdir()
    with pytest.raises(InputError, match=r"neither metadata.json nor .safetensors"):
        open_blocks(folder)
    save_file({"x": torch.ones(2)}, folder / "model-0000000-0000001.safetensors")
    assert open_blocks(folder).read("x").tolist() == [1, 1]
    save_file({"x": torch.ones(2)}, folder / "opt-0000000-0000001.safetensors")
    with pytest.raises(InputError, match="one of them is over"):
        open_blocks(folder)


def test_no_checkpoint_of_that_step(tmp_path: Path) -> None:
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("many")
    with pytest.raises(InputError, match="does not say which checkpoint"):
        open_blocks(tmp_path)
    with pytest.raises(InputError, match="iteration_00000007 does not exist"):
        open_blocks(tmp_path, at="7")
    with pytest.raises(InputError, match="1_7 is no step"):
        open_blocks(tmp_path, at="1_7")


def test_files_of_the_optimizer_may_be_missing(tmp_path: Path) -> None:
    folder = tmp_path / "iteration_00000020"
    facts = write_blocks(folder)
    name = "adam_m.whole"
    facts["state_dict_metadata"][name] = facts["state_dict_metadata"]["whole"]
    facts["storage_data"][str((name, (0,)))] = [{"file_name": "tiny-opt-0000000-0000008.safetensors"}]
    (folder / "metadata.json").write_text(json.dumps(facts))
    assert open_blocks(folder).tensors.keys() == GRIDS.keys()
    save_file({name: whole_tensor("whole")}, folder / "tiny-opt-0000000-0000008.safetensors")
    assert open_blocks(folder).tensors.keys() == GRIDS.keys() | {name}


def changed(facts: dict[str, Any], *path: str | int, value: Any) -> str:
    copy = json.loads(json.dumps(facts))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(copy)


def test_metadata_that_do_not_fit(tmp_path: Path) -> None:
    folder = tmp_path / "iteration_00000020"
    facts = write_blocks(folder)
    both = ("state_dict_metadata", "both")
    for text, message in (
        ("[]", "metadata.json cannot be read"),
        (changed(facts, *both, "global_shape", value=[16, 16]), "cover 128 of 256"),
        (changed(facts, *both, "global_shape", value=[16, "8"]), "are not sizes"),
        (changed(facts, *both, "axis_fragmentations", value=[4, 2]), "or not each once"),
        (changed(facts, *both, "chunk", 1, "local_shape", value=[4, 4]), r"metadata.json says \[4, 4\]"),
        (changed(facts, *both, "chunk", 1, "global_offset", value=[0]), "cover 112 of 128"),
        (changed(facts, "storage_data", "('both', (3,))", value=[{"file_name": "../x"}]), "outside of its folder"),
        (changed(facts, "storage_data", "('both', (3,))", value=[]), "not described as it should be"),
        (changed(facts, "storage_data", "('both', (3,))", value=[{"file_name": "x"}]), "cannot be read"),
    ):
        (folder / "metadata.json").write_text(text)
        with pytest.raises(InputError, match=message):
            open_blocks(folder)


def read_or_refused(path: Path, read: Callable[[], object], *, num_mutations: int) -> int:
    """How many mutations of the file are refused; anything but InputError ends the test."""
    content, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(num_mutations):
        path.write_bytes(mutated(content, rng))
        try:
            read()
        except InputError:
            refused += 1
    return refused


def test_mutated_strategies_and_metadata(tmp_path: Path) -> None:
    write_ranks(tmp_path / "ranks")
    strategy = tmp_path / "ranks" / "strategy" / "ckpt_strategy_rank_5.ckpt"
    assert read_or_refused(strategy, lambda: open_ranks(tmp_path / "ranks"), num_mutations=150) > 75
    folder = tmp_path / "iteration_00000020"
    write_blocks(folder)
    assert read_or_refused(folder / "metadata.json", lambda: open_blocks(folder), num_mutations=150) > 75
