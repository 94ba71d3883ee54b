"""Compressed, odd and damaged input: the right documents, or one message with its place."""

import gzip
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.data.corpus import Corpus, corpus_files, kept_standard_input
from firstlight.data.document import CorpusFile, Reader
from firstlight.data.faults import BadDocumentError
from firstlight.data.indexed import IndexedDataset
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.tokenizer import load_tokenizer, train_tokenizer

LINES = "".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(5000)).encode()


def read(path: Path, **options: object) -> list[list[str]]:
    corpus = Corpus(corpus_files([path]), Reader(**options))  # type: ignore[arg-type]
    documents = [["".join(sequence) for sequence in document.sequences] for document in corpus.documents()]
    assert corpus.num_read == corpus.num_bytes
    return documents


def compress(content: bytes, kind: str) -> bytes:
    if kind == "gzip":
        return gzip.compress(content)
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(content))


@pytest.fixture
def request_(tmp_path: Path) -> PrepareRequest:
    train_tokenizer(["document"], 258).save(str(tmp_path / "tokenizer.json"))
    return PrepareRequest(
        inputs=(tmp_path / "in",),
        tokenizer=tmp_path / "tokenizer.json",
        output_prefix=tmp_path / "out" / "set",
        held_out_fraction=0.0,
        on_error="skip",
    )


def texts(request: PrepareRequest) -> list[str]:
    indexed = IndexedDataset.open(Path(f"{request.output_prefix}_text_document"))
    tokenizer = load_tokenizer(request.tokenizer)
    return [tokenizer.decode(indexed.tokens(k).tolist()) for k in range(len(indexed))]


@pytest.mark.parametrize("kind", ["gzip", "zstandard"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.JSONL.zst"])
def test_compressed_files_are_known_by_how_they_begin(tmp_path: Path, name: str, kind: str) -> None:
    half = len(LINES) // 2
    (tmp_path / name).write_bytes(compress(LINES[:half], kind) + compress(LINES[half:], kind))
    assert read(tmp_path / name) == [[f"document {number}"] for number in range(5000)]
    assert [file.name for file in corpus_files([tmp_path])] == [name]


@pytest.mark.parametrize("kind", ["gzip", "zstandard"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
@pytest.mark.parametrize("mode", ["line", "file", "blank-line"])
def test_damaged_compressed_files_have_a_place(tmp_path: Path, kind: str, damage: str, mode: str) -> None:
    content = bytearray(compress(LINES, kind))
    if damage == "cut":
        del content[-5:]
    else:
        content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(BadDocumentError, match=r"a\.txt:\d+: the compressed data"):
        read(tmp_path / "a.txt", mode=mode)


def test_patterns_match_files_and_folders(tmp_path: Path) -> None:
    for name in ("a/x.txt", "a/y.md", "b/x.txt", "b/x.png", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [file.name for file in corpus_files([tmp_path / "*"])] == ["a/x.txt", "a/y.md", "b/x.txt", "c.txt"]
    assert [file.name for file in corpus_files([tmp_path / "*" / "x.*"])] == ["a/x.txt", "b/x.png", "b/x.txt"]
    with pytest.raises(InputError, match="no file matches"):
        corpus_files([tmp_path / "*.rs"])
    with pytest.raises(InputError, match="only `firstlight prepare` reads"):
        corpus_files([Path("-")])


def test_standard_input_is_kept_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(LINES + b"oops\n"))))
    with kept_standard_input(tmp_path / "out" / "set") as kept:
        files = corpus_files([Path("-")], kept)
        documents = list(Corpus(files, Reader(mode="line")).documents())
        assert [document.name for document in documents[:2]] == ["-:1", "-:2"]
        assert len(documents) == 5001
        with pytest.raises(BadDocumentError, match=r"standard input:5001: not a line of JSON"):
            list(Corpus(files, Reader(format="jsonl")).texts())
    assert list((tmp_path / "out").iterdir()) == []


def test_nul_crlf_and_byte_order_marks_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\0b\r\n\r\nc\xef\xbb\xbf")
    assert read(tmp_path / "a.txt") == [["a\0b\r\n\r\nc\ufeff"]]
    assert read(tmp_path / "a.txt", mode="line") == [["a\0b"], ["c\ufeff"]]


@pytest.mark.parametrize(
    "line",
    ['{"text": "a", "text": "b"}', '{"text": "a", "\\u0074ext": "a"}', '{"\\u0074ext": "a", "\\u0074ext": "b"}'],
)
def test_equal_keys_are_a_fault(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(BadDocumentError, match=r'a\.jsonl:1: the key "text" is there 2 times'):
        read(tmp_path / "a.jsonl")


def test_equal_keys_elsewhere_are_none(tmp_path: Path) -> None:
    line = '{"id": 1, "id": 2, "text": "say \\"text\\": x", "more": {"text": "x", "text": "y"}}'
    (tmp_path / "a.jsonl").write_text(f'{line}\n{{"\\u0074ext": "b"}}')
    assert read(tmp_path / "a.jsonl") == [['say "text": x'], ["b"]]


def test_what_cannot_be_read_is_left_out_and_named(
    request_: PrepareRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        b'{"text": "one"}',
        b"{",
        b'{"text": ["whole", "half \\ud800"]}',
        b'{"text": "\xff"}',
        b"[" * 100_000,
        b'{"text": "a", "text": "b"}',
        b'{"text": ""}',
        b'{"text": "two"}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    request = replace(request_, inputs=(tmp_path / "in.jsonl",))
    summary = prepare(request)
    assert texts(request) == ["one", "two"]
    assert summary.num_left_out == 5
    left_out = json.loads(summary.metadata.read_text())["left_out"]
    assert left_out["documents"] == 5
    assert [message.split(".jsonl:")[1].split(":")[0] for message in left_out["messages"]] == ["2", "3", "4", "5", "6"]
    assert caplog.text.count("left out: ") == 5
    with pytest.raises(InputError, match=r"in\.jsonl:2: "):
        prepare(replace(request, on_error="stop"))


def test_half_a_document_is_taken_back(
    request_: PrepareRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first pieces are written before the fault is met."""
    monkeypatch.setattr("firstlight.data.document.WHOLE_SIZE", 500)
    monkeypatch.setattr("firstlight.data.document.PIECE_SIZE", 100)
    monkeypatch.setattr("firstlight.data.batch._BATCH_PIECES", 2)
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    (folder / "b.txt").write_bytes(b"some text\n" * 200 + b"\xff")
    (folder / "c.txt").write_text("two")
    request = replace(request_, inputs=(folder,))
    summary = prepare(request)
    assert texts(request) == ["one", "two"]
    assert (summary.training.documents, summary.training.bytes, summary.training.tokens) == (2, 6, 8)
    messages = json.loads(summary.metadata.read_text())["left_out"]["messages"]
    assert len(messages) == 1
    assert "b.txt:201: byte 2000 of the file is not utf-8" in messages[0]


def test_the_rest_of_a_damaged_file_is_left_out_and_named(request_: PrepareRequest, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(LINES)[:-5])
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "after"}')
    request = replace(request_, inputs=(tmp_path / "a.jsonl", tmp_path / "b.jsonl"))
    summary = prepare(request)
    assert texts(request)[-2:] == ["document 4999", "after"]
    assert "nothing after this place" in json.loads(summary.metadata.read_text())["left_out"]["messages"][0]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["one", "", "two"], "id": [1, 2, 3]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [["one"], [""], ["two"]]
    with pytest.raises(InputError, match="no column \"body\" but 'text', 'id'"):
        read(tmp_path / "a.parquet", json_key="body")
    parquet.write_table(pyarrow.table({"text": ["one", None]}), tmp_path / "b.parquet")
    with pytest.raises(BadDocumentError, match=r"b\.parquet:2: \"text\" holds neither"):
        read(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(BadDocumentError, match=r"c\.parquet:1: not a readable row"):
        read(tmp_path / "c.parquet")


def test_wikitext_articles(tmp_path: Path) -> None:
    text = " \n = One = \n \n a \n = not a title = \n b \n \n = = Part = = \n \n c \n \n = Two = \n \n d \n"
    (tmp_path / "a").write_text(text)
    reader = Reader(format="wikitext", mode="article")
    file = CorpusFile(path=tmp_path / "a", name="a")
    documents = [(one.name, "".join("".join(s) for s in one.sequences)) for one in reader.documents(file)]
    assert [name for name, _ in documents] == ["a:2", "a:12"]
    assert documents[0][1].startswith(" = One = \n")
    assert " = not a title = \n" in documents[0][1]
    assert documents[1][1] == " = Two = \n \n d \n"
