"""`firstlight data`: what is printed, and what is wrong input."""

import json
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


def test_split(folder: Path) -> None:
    answer = ask(folder, "data", "split", "a", "--output", "part", "--shares", "2,1")
    assert answer.out == "part_0.bin: 2 documents, 3 tokens\npart_1.bin: 1 documents, 8 tokens\n"
    ask(folder, "data", "merge", "part_0", "part_1", "--output", "again")
    for suffix in (".bin", ".idx"):
        assert (folder / f"again{suffix}").read_bytes() == (folder / f"a{suffix}").read_bytes()
    assert ask(folder, "data", "split", "a", "--output", "p", "--parts", "3").out.count("1 documents") == 3
    assert ask(folder, "data", "split", "a", "--output", "q", "--documents", "1").out.endswith(
        "2 documents, 8 tokens\n"
    )
    for words, fault in [
        ([], "one of --shares"),
        (["--parts", "2", "--shares", "1,1"], "one of --shares"),
        (["--parts", "4"], "3 documents cannot be cut into 4"),
        (["--shares", "1,x"], "not made of numbers"),
        (["--documents", "1.5"], "not made of numbers"),
        (["--documents", "4"], "at most the 3 documents"),
    ]:
        answer = ask(folder, "data", "split", "a", "--output", "x", *words)
        assert answer.exit_code == 2
        assert fault in answer.message
    assert not list(folder.glob("x*"))


def test_stats(folder: Path) -> None:
    out = ask(folder, "data", "stats", "a", "--tokenizer", "tokenizer.json").out
    assert "documents: 3, of which 1 empty" in out
    assert "tokens of a document: 0 to 8, median 3, mean 3.7, 95 % have at most 8" in out
    assert "'e': 3 times, 27.27%" in out
    assert "'e', 100.00% of those" in out
    answer = json.loads(ask(folder, "data", "stats", "a", "--json").out)
    assert answer["lengths"]["histogram"] == [[0, 0, 1], [2, 3, 1], [8, 15, 1]]
    assert answer["num_tokens"] == 11
    assert "texts" not in answer
    with_texts = json.loads(ask(folder, "data", "stats", "b", "--json", "--tokenizer", "tokenizer.json").out)
    assert with_texts["texts"]["258"] is None
    assert with_texts["last_id"] == [258, 1.0]
