"""Parts of a tensor are read as slices of it, without the rest of the file."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from firstlight.checkpoint.blocks import NAME_OF_DTYPE, Region, opened
from firstlight.checkpoint.manifest import UnusableCheckpoint
from tests.unit.checkpoint.state import same_bits


@st.composite
def shape_and_region(draw: st.DrawFn) -> tuple[list[int], Region]:
    shape = draw(st.lists(st.integers(1, 6), min_size=0, max_size=4))
    ends = [sorted((draw(st.integers(0, size)), draw(st.integers(0, size)))) for size in shape]
    return shape, tuple((begin, end) for begin, end in ends)


@settings(max_examples=150, deadline=None)
@given(drawn=shape_and_region(), dtype=st.sampled_from(sorted(NAME_OF_DTYPE, key=str)))
def test_any_region_is_that_slice(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[list[int], Region], dtype: torch.dtype
) -> None:
    shape, region = drawn
    tensor = torch.randint(0, 2 if dtype == torch.bool else 99, shape).to(dtype)
    path = tmp_path_factory.mktemp("blocks") / "x.safetensors"
    save_file({"before": torch.ones(3, dtype=torch.uint8), "x": tensor}, path)
    with opened(path) as file:
        read = file.read("x", region)
    assert same_bits(read, tensor[tuple(slice(begin, end) for begin, end in region)].contiguous())


def test_long_pieces_are_read_alone(tmp_path: Path) -> None:
    tensor = torch.arange(4 * 8 * 8192, dtype=torch.float32).view(4, 8, 8192)
    save_file({"x": tensor}, tmp_path / "x.safetensors")
    with opened(tmp_path / "x.safetensors") as file:
        read = file.read("x", ((1, 3), (2, 4), (0, 8192)))
        assert file.num_read == 2 * 2 * 8192 * 4
    assert read.equal(tensor[1:3, 2:4])


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(100)}, path)
    with opened(path) as file:
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(UnusableCheckpoint, match="ends at byte"):
            file.read("x", ((0, 100),))


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b"\xff",
        json.dumps({"x": 1}).encode(),
        json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode(),
    ],
)
def test_a_damaged_header_is_an_error(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(UnusableCheckpoint, match="header"), opened(path):
        pass


@pytest.mark.parametrize("content", [b"", b"1234", (2**63).to_bytes(8, "little")])
def test_what_is_no_such_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnusableCheckpoint), opened(path):
        pass
