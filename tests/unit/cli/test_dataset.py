"""`firstlight data`: what is printed, and what is wrong input."""

from pathlib import Path

import numpy as np
import pytest

from firstlight.data.indexed import IndexedDataset
from firstlight.data.indexed_writer import IndexedWriter
from firstlight.data.tokenizer import train_tokenizer
from tests.unit.cli.command import ask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sets, a tokenizer of 258 ids; `b` has one id more than that."""
    tokenizer = train_tokenizer(["a"], 258)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    sets = {"a": [["one"], [], ["two", "three"]], "b": [["four"]]}
    for name, documents in sets.items():
        with IndexedWriter(tmp_path / name, np.dtype(np.uint16)) as writer:
            for document in documents:
                for sequence in document:
                    writer.add(np.array(tokenizer.encode(sequence).ids + [258] * (name == "b")))
                    writer.end_sequence()
                writer.end_document()
    return tmp_path


def test_inspect(folder: Path) -> None:
    answer = ask(folder, "data", "inspect", "a", "b")
    assert answer.exit_code == 0
    assert "documents: 3, of which 1 empty" in answer.out
    assert "sequences: 3 of 3 to 5 tokens" in answer.out
    assert "tokens: 11, stored as uint16" in answer.out
    assert "b:\n" in answer.out


def test_verify(folder: Path) -> None:
    assert ask(folder, "data", "verify", "a", "b").exit_code == 0
    assert "structure and ids sound" in ask(folder, "data", "verify", "a", "--tokenizer", "tokenizer.json").out
    answer = ask(folder, "data", "verify", "a", "b", "--tokenizer", "tokenizer.json")
    assert answer.exit_code == 2
    assert answer.message.startswith("b: token 4 of sequence 0 is 258, outside the 258 ids")
    (folder / "a.bin").write_bytes((folder / "a.bin").read_bytes()[:-1])
    answer = ask(folder, "data", "verify", "a")
    assert answer.exit_code == 2
    assert "sequence 2 has 5 tokens" in answer.message


def test_decode(folder: Path) -> None:
    words = ["--tokenizer", "tokenizer.json", "--document"]
    assert ask(folder, "data", "decode", "a", *words, "2").out == "two\n\nthree\n"
    assert ask(folder, "data", "decode", "a", *words, "1").out == "\n"
    assert "document 3 is not one of the 3" in ask(folder, "data", "decode", "a", *words, "3").message
    assert "id 258 in document 0" in ask(folder, "data", "decode", "b", *words, "0").message


def test_merge(folder: Path) -> None:
    answer = ask(folder, "data", "merge", "a", "b", "a", "--output", "all")
    assert answer.out == "all.bin: 7 documents, 27 tokens\n"
    merged = IndexedDataset.open(folder / "all")
    assert merged.document_indices.tolist() == [0, 1, 1, 3, 4, 5, 5, 7]
    np.testing.assert_array_equal(merged.tokens(3), IndexedDataset.open(folder / "b").tokens(0))
    assert "is one of the data sets to merge" in ask(folder, "data", "merge", "a", "b", "--output", "./a").message
    with IndexedWriter(folder / "c", np.dtype(np.int32)) as writer:
        writer.end_document()
    assert "only sets of one dtype" in ask(folder, "data", "merge", "a", "c", "--output", "d").message
    assert not list(folder.glob("d*"))


def test_a_set_with_gaps_is_merged_back_to_back(folder: Path) -> None:
    content = (folder / "a.idx").read_bytes()
    index = bytearray(content)
    index[34 + 12 : 34 + 20] = (10).to_bytes(8, "little")  # sequence 0 now lies within the last one
    (folder / "a.idx").write_bytes(index)
    expected = [IndexedDataset.open(folder / "a").tokens(k).tolist() for k in range(3)]
    assert "gaps" in ask(folder, "data", "inspect", "a").out
    ask(folder, "data", "merge", "a", "--output", "c")
    merged = IndexedDataset.open(folder / "c")
    assert [merged.tokens(k).tolist() for k in range(3)] == expected
    assert (folder / "c.idx").read_bytes() == content
