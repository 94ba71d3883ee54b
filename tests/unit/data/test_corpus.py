"""Which documents there are, what they are called and what is said of files that cannot be read."""

import json
import random
from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.data import document as document_module
from firstlight.data.corpus import Corpus, corpus_files, is_held_out, standard_library
from firstlight.data.document import DocumentMode, Reader, cut


def read(
    path: Path, mode: DocumentMode = "file", *, json_key: str = "text"
) -> tuple[list[str], list[list[list[str]]], Corpus]:
    """(names, documents as sequences of pieces, corpus) of one input."""
    corpus = Corpus(corpus_files([path]), Reader(mode=mode, json_key=json_key))
    names: list[str] = []
    documents: list[list[list[str]]] = []
    for document in corpus.documents():
        names.append(document.name)
        documents.append([list(sequence) for sequence in document.sequences])
    return names, documents, corpus


def test_a_folder_gives_its_text_files_by_path(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b.py", ".hidden.txt", ".git/x.txt", "picture.png", "settings.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    names, documents, corpus = read(tmp_path)
    assert names == ["a/b.py", "a/z.md", "b.txt"]
    assert documents == [[[name]] for name in names]
    assert corpus.num_read == corpus.num_bytes == sum(map(len, names))


def test_a_folder_without_text_and_a_missing_input_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no text files"):
        corpus_files([tmp_path])
    with pytest.raises(InputError, match="nowhere does not exist"):
        corpus_files([tmp_path / "nowhere"])


def test_lines_and_paragraphs_may_be_documents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\n  \nthree\nfour")
    assert read(tmp_path / "a", "line")[:2] == (
        ["a:1", "a:2", "a:5", "a:6"],
        [[["one"]], [["two"]], [["three"]], [["four"]]],
    )
    assert read(tmp_path / "a", "blank-line")[:2] == (["a:1", "a:5"], [[["one\r\ntwo\n"]], [["three\nfour"]]])
    assert read(tmp_path / "a")[1] == [[["one\r\ntwo\n\n  \nthree\nfour"]]]


def test_json_lines(tmp_path: Path) -> None:
    records = [{"text": "one\ntwo \ud83c\udf05"}, {"text": ""}, {"text": ["a", "", "b"]}, {"text": []}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    names, documents, _ = read(path)
    assert names == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "a.jsonl:4"]
    assert documents == [[["one\ntwo 🌅"]], [[""]], [["a"], [""], ["b"]], []]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"text": "a', "not a line of JSON"),
        (b'{"body": "a"}', "found an object with 'body'; each line needs the key \"text\""),
        (b'["a"]', "found no object"),
        (b'{"text": 1}', "neither a text nor a list of texts"),
        (b'{"text": ["a", null]}', "neither a text nor a list of texts"),
        (b'{"text": "ab\\ud800"}', "character 2 is half a surrogate pair"),
        (b'{"text": "\xff"}', "byte 10 of the line is not utf-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_faults_in_json_lines_have_a_place(tmp_path: Path, line: bytes, fault: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(InputError, match=r"a\.jsonl:2: ") as error:
        read(tmp_path / "a.jsonl")
    assert fault in str(error.value)


def test_another_key(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"body": "x"}')
    assert read(tmp_path / "a.json", json_key="body")[1] == [[["x"]]]


@pytest.mark.parametrize("before", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 5])
def test_a_byte_that_is_not_text_has_a_place(tmp_path: Path, before: int) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * before + b"\xe6\x97 more")
    with pytest.raises(InputError, match=rf"a\.txt:1: byte {before} of the file is not utf-8"):
        read(tmp_path / "a.txt")


def test_a_text_that_ends_within_a_character_has_a_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc\xe6\x97")
    with pytest.raises(InputError, match=r"a\.txt:1: byte 6 of the file is not utf-8"):
        read(tmp_path / "a.txt")


def test_python_files_say_their_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes("# coding: latin-1\n# é".encode("latin-1"))
    assert read(tmp_path / "a.py")[1] == [[["# coding: latin-1\n# é"]]]


@pytest.mark.parametrize("encoding", ["rot13", "klingon"])
def test_python_files_in_no_encoding_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.py").write_text(f"# coding: {encoding}\n")
    with pytest.raises(InputError, match=r"a\.py:1: .*encoding"):
        read(tmp_path / "a.py")


def test_large_texts_come_in_pieces_cut_before_unindented_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_module, "WHOLE_SIZE", 40)
    monkeypatch.setattr(document_module, "PIECE_SIZE", 20)
    generator = random.Random(1)
    for _ in range(200):
        text = "".join(generator.choices(["a", "bc", " ", "\n", "\n  ", "\n\n"], k=generator.randrange(80)))
        parts = [text[start : start + 7] for start in range(0, len(text), 7)]
        pieces = list(cut(parts))
        assert "".join(pieces) == text
        assert len(pieces) == 1 or len(text) > 40
        assert all(len(piece) <= 20 for piece in pieces[:-1])
    assert list(cut(["x = 1\n    y\nz\n    w\n", "z" * 40])) == ["x = 1\n    y\n", "z\n    w\n", "z" * 20, "z" * 20]


def test_a_large_file_is_read_in_pieces_of_bounded_size(tmp_path: Path) -> None:
    text = "a line of text\n" * 200_000
    (tmp_path / "a.txt").write_text(text)
    (sequence,) = read(tmp_path / "a.txt")[1][0]
    assert "".join(sequence) == text
    assert max(map(len, sequence)) <= document_module.WHOLE_SIZE
    assert all(piece.endswith("\n") for piece in sequence[:-1])


def test_the_digest_covers_all_bytes(tmp_path: Path) -> None:
    digests = set()
    for content in ("one\n", "two\n"):
        (tmp_path / "a.txt").write_text(content)
        digests |= {read(tmp_path / "a.txt", mode)[2].sha256() for mode in ("file", "line", "blank-line")}
    assert len(digests) == 2


def test_holding_out_is_by_name_and_stable() -> None:
    names = [f"folder/file_{number}.txt" for number in range(2000)]
    held_out = [name for name in names if is_held_out(name, 0.05)]
    assert 70 <= len(held_out) <= 130
    assert held_out[:3] == ["folder/file_15.txt", "folder/file_53.txt", "folder/file_65.txt"]
    assert set(held_out) <= {name for name in names if is_held_out(name, 0.1)}
    assert not any(is_held_out(name, 0.0) for name in names)


def test_the_standard_library_is_at_hand() -> None:
    corpus = Corpus(standard_library())
    names = [file.name for file in corpus.files]
    assert names == sorted(names)
    assert "argparse.py" in names
    assert not any("test" in name.split("/")[:-1] for name in names)
    assert 5e6 < corpus.num_bytes < 2e7


def test_an_interpreter_without_sources_points_to_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--input"):
        standard_library(tmp_path)
