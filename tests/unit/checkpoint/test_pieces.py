"""A file in pieces: written without a copy, checked where it is read, and only there."""

from pathlib import Path

import pytest
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from firstlight.checkpoint.blocks import NAME_OF_DTYPE, bytes_of, header_of
from firstlight.checkpoint.disk import LocalDisk
from firstlight.checkpoint.files import write_durably
from firstlight.checkpoint.manifest import FileRecord, UnusableCheckpoint
from firstlight.checkpoint.pieces import Landing, checked, reading_ahead, verify_file
from tests.unit.checkpoint.state import same_bits

CONTENT = bytes(range(256)) * 5


def written(path: Path, parts: list[bytes], piece_bytes: int) -> FileRecord:
    return write_durably(LocalDisk(), path, [memoryview(part) for part in parts], piece_bytes)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.binary(max_size=40), max_size=6), piece_bytes=st.integers(1, 50))
def test_each_piece_has_its_digest(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], piece_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "file"
    record = written(path, parts, piece_bytes)
    content = path.read_bytes()
    assert content == b"".join(parts)
    pieces = [content[begin : begin + piece_bytes] for begin in range(0, len(content), piece_bytes)]
    assert record.pieces == tuple(blake3(piece).hexdigest() for piece in pieces)
    verify_file(path, record)


@settings(max_examples=60, deadline=None)
@given(
    spans=st.lists(st.tuples(st.integers(0, 1280), st.integers(0, 1280)), max_size=8), piece_bytes=st.integers(1, 400)
)
def test_any_bytes_are_read_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int]], piece_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "file"
    record = written(path, [CONTENT], piece_bytes)
    with checked(path, record) as pieces:
        for begin, end in ((min(span), max(span)) for span in spans):
            target = bytearray(end - begin)
            pieces.fill(memoryview(target), begin)
            assert target == CONTENT[begin:end]


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 1280), max_size=24),
    piece_bytes=st.integers(1, 400),
    known_bytes=st.sampled_from([0, 8, 500]),
)
def test_bytes_land_where_they_are_wanted(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], piece_bytes: int, known_bytes: int
) -> None:
    """Every second part between the cuts is wanted, two at a time; what is read before that is as a header is."""
    path = tmp_path_factory.mktemp("pieces") / "file"
    record = written(path, [CONTENT], piece_bytes)
    bounds = sorted(cuts)
    wanted = [(begin, bytearray(end - begin)) for begin, end in zip(bounds[0::2], bounds[1::2], strict=False)]
    seen: list[bytes] = []

    def landing(parts: list[tuple[int, bytearray]]) -> Landing:
        runs = [(begin, memoryview(target)) for begin, target in parts]
        return Landing(runs=runs, arrived=lambda: seen.extend(bytes(target) for _, target in parts))

    with checked(path, record) as pieces, reading_ahead() as ahead:
        pieces.fill(memoryview(bytearray(known_bytes)), 0)
        pieces.land((landing(wanted[first : first + 2]) for first in range(0, len(wanted), 2)), ahead)
    assert seen == [CONTENT[begin : begin + len(target)] for begin, target in wanted]


def test_two_tensors_do_not_share_bytes(tmp_path: Path) -> None:
    record = written(tmp_path / "file", [CONTENT], 100)
    runs = [(0, memoryview(bytearray(50))), (49, memoryview(bytearray(5)))]
    with (
        pytest.raises(UnusableCheckpoint, match="has the bytes from 49 to 50 in two tensors"),
        checked(tmp_path / "file", record) as pieces,
        reading_ahead() as ahead,
    ):
        pieces.land([Landing(runs=runs)], ahead)


def test_a_changed_piece_is_noticed_where_it_is_read(tmp_path: Path) -> None:
    record = written(tmp_path / "file", [CONTENT], 100)
    changed = bytearray(CONTENT)
    changed[555] ^= 4
    (tmp_path / "file").write_bytes(changed)
    fault = r"file is changed in bytes 500 to 600: BLAKE3 .*, expected"
    with checked(tmp_path / "file", record) as pieces:
        pieces.fill(memoryview(bytearray(500)), 0)
        with pytest.raises(UnusableCheckpoint, match=fault):
            pieces.fill(memoryview(bytearray(1)), 599)
    with (
        pytest.raises(UnusableCheckpoint, match=fault),
        checked(tmp_path / "file", record) as pieces,
        reading_ahead() as ahead,
    ):
        pieces.land([Landing(runs=[(0, memoryview(bytearray(501)))])], ahead)
    with pytest.raises(UnusableCheckpoint, match="bytes 500 to 600"):
        verify_file(tmp_path / "file", record)


def test_what_lies_behind_the_end_is_an_error(tmp_path: Path) -> None:
    record = written(tmp_path / "file", [CONTENT], 100)
    with (
        checked(tmp_path / "file", record) as pieces,
        pytest.raises(UnusableCheckpoint, match="ends at byte 1280"),
    ):
        pieces.fill(memoryview(bytearray(2)), 1279)


@pytest.mark.parametrize("num_pieces", [0, 1, 3])
def test_a_record_has_as_many_pieces_as_the_file(num_pieces: int) -> None:
    with pytest.raises(ValueError, match="are no file of 200 bytes"):
        FileRecord(num_bytes=200, piece_bytes=100, pieces=("",) * num_pieces)


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(
        st.tuples(st.sampled_from(sorted(NAME_OF_DTYPE, key=str)), st.lists(st.integers(0, 4), max_size=3)), max_size=6
    )
)
def test_the_files_are_safetensors(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[torch.dtype, list[int]]]
) -> None:
    """The library reads them, and every value is aligned to its size."""
    path = tmp_path_factory.mktemp("pieces") / "x.safetensors"
    tensors: dict[str, Tensor] = {
        f"tensor.{number}.ü": torch.randint(0, 2, shape).to(dtype) for number, (dtype, shape) in enumerate(kinds)
    }
    header, names = header_of(tensors)
    content = [header, *(bytes(bytes_of(tensors[name])) for name in names)]
    written(path, content, 64)
    assert len(header) % 8 == 0
    place = len(header)
    for name in names:
        assert place % tensors[name].dtype.itemsize == 0
        place += tensors[name].nbytes
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(same_bits(found[name], tensors[name]) for name in tensors)
