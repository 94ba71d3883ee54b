"""Reading and writing indexed data sets; files that are not what they should be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.fingerprint import fingerprint
from firstlight.data.indexed import HEADER, IndexedDataset, best_dtype, bin_path, idx_path
from firstlight.data.indexed_writer import IndexedWriter

DOCUMENTS = [[1, 2, 3], [4], [], [5, 6, 7, 8, 9]]


def write(prefix: Path, documents: list[list[int]], dtype: str = "uint16") -> Path:
    with IndexedWriter(prefix, np.dtype(dtype)) as writer:
        for document in documents:
            writer.add(np.array(document, np.int64))
            writer.end_document()
    return prefix


def open_bytes(prefix: Path, index: bytes, content: bytes) -> IndexedDataset:
    idx_path(prefix).write_bytes(index)
    bin_path(prefix).write_bytes(content)
    return IndexedDataset.open(prefix)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64"])
def test_what_was_written_is_read(tmp_path: Path, dtype: str) -> None:
    indexed = IndexedDataset.open(write(tmp_path / "set", DOCUMENTS, dtype))
    assert indexed.dtype == np.dtype(dtype)
    assert (len(indexed), indexed.num_tokens) == (3, 9)
    assert [indexed.tokens(k).tolist() for k in range(3)] == [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    assert indexed.tokens(2, 1, 2).tolist() == [6, 7]
    assert indexed.tokens(2, 5).tolist() == []
    assert indexed.document_indices.tolist() == [0, 1, 2, 2, 3]
    assert indexed.pointers.tolist() == [k * indexed.dtype.itemsize for k in (0, 3, 4)]


@pytest.mark.parametrize(("sequence", "offset", "length"), [(-1, 0, 1), (3, 0, 1), (0, -1, 2), (0, 0, 4), (0, 4, None)])
def test_tokens_outside_a_sequence_are_an_error(tmp_path: Path, sequence: int, offset: int, length: int | None) -> None:
    indexed = IndexedDataset.open(write(tmp_path / "set", DOCUMENTS))
    with pytest.raises(IndexError):
        indexed.tokens(sequence, offset, length)


@pytest.mark.parametrize("documents", [[], [[], []]])
def test_a_set_without_tokens_opens(tmp_path: Path, documents: list[list[int]]) -> None:
    indexed = IndexedDataset.open(write(tmp_path / "set", documents))
    assert (len(indexed), indexed.num_tokens) == (0, 0)


@given(documents=st.lists(st.lists(st.integers(0, 65535), max_size=20), max_size=8), size=st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_pieces_of_any_size_give_the_same_files(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], size: int
) -> None:
    folder = tmp_path_factory.mktemp("sets")
    whole = write(folder / "whole", documents)
    with IndexedWriter(folder / "pieces", np.dtype(np.uint16)) as writer:
        for document in documents:
            for start in range(0, len(document), size):
                writer.add(np.array(document[start : start + size], np.uint16))
            writer.end_document()
    for path in (idx_path, bin_path):
        assert path(whole).read_bytes() == path(folder / "pieces").read_bytes()


def test_documents_may_have_several_and_empty_sequences(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "set", np.dtype(np.int32)) as writer:
        writer.add(np.array([1, 2]))
        writer.end_sequence()
        writer.end_sequence()
        writer.add(np.array([3]))
        writer.end_document()
    indexed = IndexedDataset.open(tmp_path / "set")
    assert indexed.lengths.tolist() == [2, 0, 1]
    assert indexed.document_indices.tolist() == [0, 3]


def test_a_failed_writer_leaves_no_file_and_keeps_the_old_ones(tmp_path: Path) -> None:
    write(tmp_path / "set", DOCUMENTS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError), IndexedWriter(tmp_path / "set", np.dtype(np.int32)) as writer:
        writer.add(np.array([1, 2**40]))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("ids", [[70000], [-1]])
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(InputError, match="do not fit uint16"), IndexedWriter(tmp_path / "a", np.dtype("u2")) as writer:
        writer.add(np.array(ids))
    assert list(tmp_path.iterdir()) == []


def test_a_document_left_open_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not ended"), IndexedWriter(tmp_path / "a", np.dtype("u2")) as writer:
        writer.add(np.array([1]))
    assert list(tmp_path.iterdir()) == []


def test_a_sequence_too_long_for_the_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firstlight.data.indexed_writer._MOST_TOKENS", 5)
    with IndexedWriter(tmp_path / "a", np.dtype("u2")) as writer:
        writer.add(np.arange(3))
        with pytest.raises(InputError, match="smaller documents"):
            writer.add(np.arange(3))
        writer.end_document()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/set\.bin cannot be written"):
        write(tmp_path / "file" / "set", DOCUMENTS)


def test_best_dtype() -> None:
    assert best_dtype(65499) == np.uint16
    assert best_dtype(65500) == best_dtype(None) == np.int32


@pytest.mark.parametrize("path", [idx_path, bin_path])
def test_a_missing_file_is_named(tmp_path: Path, path: Any) -> None:
    prefix = write(tmp_path / "set", DOCUMENTS)
    path(prefix).unlink()
    with pytest.raises(InputError, match=f"{path(prefix).name} does not exist"):
        IndexedDataset.open(prefix)


@pytest.mark.parametrize("path", [idx_path, bin_path])
def test_every_truncation_is_noticed(tmp_path: Path, path: Any) -> None:
    prefix = write(tmp_path / "set", DOCUMENTS)
    whole = path(prefix).read_bytes()
    for size in range(len(whole)):
        path(prefix).write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"\.idx: "):
            IndexedDataset.open(prefix)


def test_another_magic_is_refused(tmp_path: Path) -> None:
    prefix = write(tmp_path / "set", DOCUMENTS)
    index = idx_path(prefix).read_bytes()
    with pytest.raises(InputError, match=r"not the \.idx of a Megatron data set"):
        open_bytes(prefix, b"TNTIDX\0\0\0" + index[9:], b"")


def _index(lengths: list[int], pointers: list[int], documents: list[int], *, code: int = 8, version: int = 1) -> bytes:
    def raw(values: list[int], dtype: str) -> bytes:
        array: NDArray[Any] = np.array(values, dtype)
        return array.tobytes()

    header = HEADER.pack(b"MMIDIDX\0\0", version, code, len(lengths), len(documents))
    return header + raw(lengths, "<i4") + raw(pointers, "<i8") + raw(documents, "<i8")


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        (_index([2], [0], [0, 1], version=2), "version 2"),
        (_index([2], [0], [0, 1], code=9), "dtype code 9"),
        (_index([2], [0], [0, 1], code=0), "dtype code 0"),
        (_index([2], [0], []), "the first document index is nothing"),
        (_index([2], [0], [1, 1]), "the first document index is 1"),
        (_index([2], [0], [0, 2]), "the last document index is 2, not the 1 sequences"),
        (_index([2, 2], [0, 0], [0, 2, 1, 2]), "document index 2 is smaller"),
        (_index([-1], [0], [0, 1]), "sequence 0 has -1 tokens"),
        (_index([2], [-2], [0, 1]), "at byte -2"),
        (_index([2], [1], [0, 1]), "outside the 4 bytes"),
        (_index([2], [2**63 - 1], [0, 1]), "outside the 4 bytes"),
        (_index([2**31 - 1], [0], [0, 1]), "outside the 4 bytes"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, index: bytes, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        open_bytes(tmp_path / "set", index, b"\1\0\2\0")


def test_gaps_reuse_and_odd_places_are_legal(tmp_path: Path) -> None:
    indexed = open_bytes(tmp_path / "set", _index([1, 1], [1, 1], [0, 2]), b"\1\2\3\4")
    assert [indexed.tokens(k).tolist() for k in range(2)] == [[0x0302], [0x0302]]


@given(place=st.integers(0, 81), value=st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_changed_byte_never_crashes(tmp_path_factory: pytest.TempPathFactory, place: int, value: int) -> None:
    index = bytearray(_index([2, 1], [0, 4], [0, 1, 2]))
    index[place] = value
    try:
        indexed = open_bytes(tmp_path_factory.mktemp("set") / "set", bytes(index), bytes(24))
    except InputError:
        return
    for sequence in range(len(indexed)):
        assert len(indexed.tokens(sequence)) == indexed.lengths[sequence]


def test_a_fingerprint_tells_content_not_place(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    prefixes = [write(tmp_path / name, DOCUMENTS) for name in ("set", "elsewhere/set")]
    first, second = (fingerprint(prefix) for prefix in prefixes)
    assert first == second
    other = write(tmp_path / "other", [*DOCUMENTS[:-1], [5, 6, 7, 8, 10]])
    assert fingerprint(other) != first
