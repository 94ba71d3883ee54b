"""Text in, data sets out: what is in them, what is refused and what cannot change them."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from firstlight.base.errors import InputError
from firstlight.data import batch as batch_module
from firstlight.data.indexed import IndexedDataset
from firstlight.data.indexed_facts import verify
from firstlight.data.prepare import PrepareRequest, prepare, worker_variables
from firstlight.data.tokenizer import load_tokenizer, train_tokenizer

TEXT = "the first light of a new day\n"


@pytest.fixture
def request_(tmp_path: Path) -> PrepareRequest:
    """Sixty small documents, a third of them held out."""
    train_tokenizer([TEXT], 270).save(str(tmp_path / "tokenizer.json"))
    records = [json.dumps({"text": f"{number}: {TEXT}"}) for number in range(60)]
    (tmp_path / "in.jsonl").write_text("\n".join(records))
    return PrepareRequest(
        inputs=(tmp_path / "in.jsonl",),
        tokenizer=tmp_path / "tokenizer.json",
        output_prefix=tmp_path / "out" / "set",
        held_out_fraction=0.3,
    )


def outputs(request: PrepareRequest) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in request.output_prefix.parent.iterdir()}


def texts(request: PrepareRequest, prefix: str) -> list[str]:
    tokenizer = load_tokenizer(request.tokenizer)
    indexed = IndexedDataset.open(Path(prefix))
    return [tokenizer.decode(indexed.tokens(k).tolist(), skip_special_tokens=False) for k in range(len(indexed))]


def test_every_document_is_in_one_of_the_sets_with_its_end(request_: PrepareRequest) -> None:
    summary = prepare(request_)
    assert summary.held_out is not None
    assert summary.training.prefix.endswith("out/set_text_document")
    assert summary.held_out.prefix.endswith("out/set_heldout_text_document")
    found = [texts(request_, one.prefix) for one in (summary.training, summary.held_out)]
    assert sorted(found[0] + found[1]) == sorted(f"{number}: {TEXT}<|endoftext|>" for number in range(60))
    assert (summary.training.documents, summary.held_out.documents) == (len(found[0]), len(found[1]))
    assert 8 <= summary.held_out.documents <= 28
    assert summary.training.bytes + summary.held_out.bytes == sum(len(f"{number}: {TEXT}") for number in range(60))


def test_the_metadata_tells_what_was_made_of_what(request_: PrepareRequest) -> None:
    summary = prepare(request_)
    metadata = json.loads(summary.metadata.read_text())
    assert metadata["sets"]["training"]["tokens"] == summary.training.tokens
    assert metadata["sets"]["held_out"]["bytes_per_token"] == summary.held_out.bytes_per_token  # type: ignore[union-attr]
    assert metadata["tokenizer"]["eod_token"] == "<|endoftext|>"
    assert metadata["tokenizer"]["vocabulary_size"] == summary.vocabulary_size == 270
    assert metadata["inputs"]["files"] == 1
    assert metadata["inputs"]["bytes"] == request_.inputs[0].stat().st_size
    assert "python" not in metadata["inputs"]
    content = request_.inputs[0].read_bytes()
    sha256 = hashlib.sha256(content)
    assert metadata["inputs"]["sources"] == [
        {"path": str(request_.inputs[0]), "bytes": len(content), "sha256": sha256.hexdigest()}
    ]
    assert metadata["inputs"]["sources_not_listed"] == 0
    assert metadata["inputs"]["sha256"] == hashlib.sha256(bytes(32) + sha256.digest()).hexdigest()


@pytest.mark.parametrize("held_tokens", [1, 10, 1 << 20])
def test_every_token_is_counted(
    request_: PrepareRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_tokens: int
) -> None:
    """Also those of long documents, and not those of documents that are taken back."""
    monkeypatch.setattr("firstlight.data.document.WHOLE_SIZE", 500)
    monkeypatch.setattr("firstlight.data.document.PIECE_SIZE", 100)
    monkeypatch.setattr("firstlight.data.indexed_writer._HELD_TOKENS", held_tokens)
    monkeypatch.setattr(batch_module, "_BATCH_PIECES", 3)
    (tmp_path / "long.txt").write_text(TEXT * 100)
    (tmp_path / "bad.txt").write_bytes(TEXT.encode() * 100 + b"\xff")
    inputs = (tmp_path / "bad.txt", *request_.inputs, tmp_path / "bad.txt", tmp_path / "long.txt")
    summary = prepare(replace(request_, inputs=inputs, on_error="skip"))
    assert summary.held_out is not None
    prefixes = (summary.training.prefix, summary.held_out.prefix)
    ids = np.concatenate([np.fromfile(f"{prefix}.bin", np.uint16) for prefix in prefixes])
    counts = np.load(f"{request_.output_prefix}.histogram.npy", allow_pickle=False)
    assert counts.tolist() == np.bincount(ids, minlength=270).tolist()
    tokens = json.loads(summary.metadata.read_text())["tokens"]
    assert tokens["distinct"] == len(np.unique(ids))
    assert tokens["most_frequent"][0]["count"] == counts.max()
    assert {"id": 0, "count": 61, "text": "<|endoftext|>"} in tokens["most_frequent"]


def test_sources_that_are_very_many_are_counted(request_: PrepareRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firstlight.data.corpus.MOST_SOURCES", 1)
    summary = prepare(replace(request_, inputs=request_.inputs * 3))
    inputs = json.loads(summary.metadata.read_text())["inputs"]
    assert (inputs["files"], len(inputs["sources"]), inputs["sources_not_listed"]) == (3, 1, 2)


def test_nothing_is_held_out_without_a_fraction(request_: PrepareRequest) -> None:
    assert prepare(replace(request_, held_out_fraction=0.0)).held_out is None
    assert set(outputs(request_)) == {"set.json", "set.histogram.npy", "set_text_document.bin", "set_text_document.idx"}


def test_the_size_of_batches_changes_nothing(request_: PrepareRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(request_)
    expected = outputs(request_)
    for characters, pieces in ((1, 1), (100, 7), (10**9, 10**9)):
        monkeypatch.setattr(batch_module, "_BATCH_CHARACTERS", characters)
        monkeypatch.setattr(batch_module, "_BATCH_PIECES", pieces)
        prepare(request_)
        assert outputs(request_) == expected


def test_the_number_of_workers_changes_nothing(request_: PrepareRequest) -> None:
    prepare(request_)
    expected = outputs(request_)
    for workers in (1, 2):
        request = replace(request_, workers=workers)
        program = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path, PosixPath, WindowsPath
from firstlight.data.prepare import PrepareRequest, prepare
prepare({request!r})
"""
        subprocess.run([sys.executable, "-c", program], check=True)
        assert outputs(request_) == expected
    assert worker_variables(3)["RAYON_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("parse", "is_token"), [(False, False), (True, True)])
def test_special_tokens_in_the_text_are_text_unless_asked_for(
    request_: PrepareRequest, tmp_path: Path, parse: bool, is_token: bool
) -> None:
    (tmp_path / "a.txt").write_text("a<|endoftext|>b")
    request = replace(
        request_, inputs=(tmp_path / "a.txt",), held_out_fraction=0.0, append_eod=False, parse_special_tokens=parse
    )
    summary = prepare(request)
    assert summary.eod_id is None
    assert texts(request, summary.training.prefix) == ["a<|endoftext|>b"]
    assert (0 in IndexedDataset.open(Path(summary.training.prefix)).tokens(0)) == is_token


def test_lists_are_documents_of_several_sequences(request_: PrepareRequest, tmp_path: Path) -> None:
    path = tmp_path / "lists.jsonl"
    path.write_text('{"text": ["", "one", "", "two", ""]}\n{"text": []}\n{"text": ""}\n{"text": ["three"]}')
    request = replace(request_, inputs=(path,), held_out_fraction=0.0)
    summary = prepare(request)
    assert texts(request, summary.training.prefix) == ["one", "two<|endoftext|>", "three<|endoftext|>"]
    assert IndexedDataset.open(Path(summary.training.prefix)).document_indices.tolist() == [0, 2, 2, 2, 3]
    assert summary.training.documents == 2


def test_a_document_in_pieces_is_one_sequence_and_the_same_tokens(
    request_: PrepareRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text((TEXT + "    indented\n\n") * 50)
    request = replace(request_, inputs=(tmp_path / "a.txt",), held_out_fraction=0.0)
    prepare(request)
    expected = outputs(request)
    monkeypatch.setattr("firstlight.data.document.WHOLE_SIZE", 500)
    monkeypatch.setattr("firstlight.data.document.PIECE_SIZE", 100)
    assert prepare(request).training.documents == 1
    assert outputs(request) == expected


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n'])
def test_an_empty_corpus_is_refused(request_: PrepareRequest, tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match="no document with text"):
        prepare(replace(request_, inputs=(path,)))
    assert outputs(request_) == {}


@pytest.mark.parametrize(("fraction", "which"), [(1e-9, "held out"), (0.999999, "for training")])
def test_a_set_without_documents_is_refused(
    request_: PrepareRequest, tmp_path: Path, fraction: float, which: str
) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    with pytest.raises(InputError, match=f"none of the 1 documents is {which}"):
        prepare(replace(request_, inputs=(tmp_path / "a.txt",), held_out_fraction=fraction))
    assert outputs(request_) == {}


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_fraction_that_is_none_is_refused(request_: PrepareRequest, fraction: float) -> None:
    with pytest.raises(InputError, match="held-out fraction"):
        prepare(replace(request_, held_out_fraction=fraction))


def test_a_fault_in_the_input_keeps_the_old_files(request_: PrepareRequest) -> None:
    prepare(request_)
    before = outputs(request_)
    with request_.inputs[0].open("a") as file:
        file.write("\n{")
    with pytest.raises(InputError, match=r"in\.jsonl:61"):
        prepare(request_)
    assert outputs(request_) == before


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_changed_byte_of_a_prepared_set_is_noticed(request_: PrepareRequest, suffix: str) -> None:
    for one in (summary := prepare(request_)).training, summary.held_out:
        assert one is not None
        prefix = Path(one.prefix)
        verify(prefix)
        path = Path(f"{prefix}{suffix}")
        whole = path.read_bytes()
        # In the .idx: the length of the first sequence, one token less, which fits all the rest.
        place = len(whole) // 2 if suffix == ".bin" else 34
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match=rf"{suffix}.*(SHA-256 differs|outside)"):
            verify(prefix)
        path.write_bytes(whole)
        verify(prefix)
