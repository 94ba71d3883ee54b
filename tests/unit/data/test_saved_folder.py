"""Folders that `datasets` saved, and Arrow files: the right texts in order, or one message with its place."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.base.errors import InputError
from firstlight.data.corpus import Corpus, corpus_files
from firstlight.data.document import CorpusFile, Reader
from firstlight.data.faults import BadDocumentError
from firstlight.data.indexed import IndexedDataset
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.saved_folder import saved_files
from firstlight.data.tokenizer import load_tokenizer, train_tokenizer

datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
pyarrow = pytest.importorskip("pyarrow", reason="the package pyarrow is not installed")
ipc = pytest.importorskip("pyarrow.ipc")
parquet = pytest.importorskip("pyarrow.parquet")

TEXTS = [f"text {number}" for number in range(23)]


def read(*paths: Path, **options: str) -> list[list[str]]:
    corpus = Corpus(corpus_files(paths), Reader(**options))  # type: ignore[arg-type]
    documents = [["".join(sequence) for sequence in document.sequences] for document in corpus.documents()]
    assert corpus.num_read == corpus.num_bytes
    return documents


def write(path: Path, columns: dict[str, object], *, is_file: bool = False) -> Path:
    table = columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns)
    with (ipc.new_file if is_file else ipc.new_stream)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    return path


def test_a_saved_folder_is_prepared_in_its_own_order(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"id": range(23), "body": TEXTS}).save_to_disk(tmp_path / "in", num_shards=3)
    state = json.loads((tmp_path / "in" / "state.json").read_text())
    state["_data_files"].reverse()
    (tmp_path / "in" / "state.json").write_text(json.dumps(state))
    (tmp_path / "in" / "data-99999-of-00003.arrow").write_text("left over")
    train_tokenizer(["text "], 258).save(str(tmp_path / "tokenizer.json"))
    request = PrepareRequest(
        inputs=(tmp_path / "in",),
        tokenizer=tmp_path / "tokenizer.json",
        output_prefix=tmp_path / "out" / "set",
        held_out_fraction=0.0,
        json_key="body",
        append_eod=False,
    )
    prepare(request)
    indexed = IndexedDataset.open(tmp_path / "out" / "set_text_document")
    tokenizer = load_tokenizer(tmp_path)
    assert [tokenizer.decode(indexed.tokens(k).tolist()) for k in range(23)] == TEXTS[16:] + TEXTS[8:16] + TEXTS[:8]
    with pytest.raises(InputError, match="no column \"text\" but 'id', 'body'"):
        prepare(replace(request, json_key="text"))


def test_several_data_sets_in_one_folder(tmp_path: Path) -> None:
    one = datasets.Dataset.from_dict({"text": TEXTS})
    datasets.DatasetDict(train=one, test=one).save_to_disk(tmp_path / "two")
    datasets.DatasetDict(train=one).save_to_disk(tmp_path / "one")
    assert saved_files(tmp_path / "two", "test")[0].parent.name == "test"
    assert read(tmp_path / "one") == read(tmp_path / "two" / "train") == [[text] for text in TEXTS]
    with pytest.raises(InputError, match="holds the data sets train, test; name one"):
        read(tmp_path / "two")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ('{"_data_files": []}', "names no data files"),
        ('{"_data_files": [{"filename": "../a.arrow"}]}', "not names of files in its folder"),
        ('{"_data_files": [{"filename": "a.arrow"}]}', "a.arrow does not exist"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, state: str, message: str) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(InputError, match=message):
        corpus_files([tmp_path])


@pytest.mark.parametrize("is_file", [False, True])
def test_arrow_files(tmp_path: Path, *, is_file: bool) -> None:
    path = write(tmp_path / "a.arrow", {"id": list(range(23)), "text": TEXTS}, is_file=is_file)
    assert read(path) == [[text] for text in TEXTS]
    lists = write(tmp_path / "b.arrow", {"text": [["a", "b"], []]}, is_file=is_file)
    assert read(lists) == [["a", "b"], []]
    wrong = write(tmp_path / "c.arrow", {"text": [*TEXTS[:7], None]}, is_file=is_file)
    with pytest.raises(BadDocumentError, match=r"c\.arrow:8: \"text\" holds neither"):
        read(wrong)


def test_text_that_is_not_utf8_is_of_its_row_alone(tmp_path: Path) -> None:
    values = pyarrow.array([b"one", b"\xff", b"two"]).view(pyarrow.string())
    path = write(tmp_path / "a.arrow", {"text": values})
    rows = list(Reader().documents(CorpusFile(path=path, name="a.arrow")))
    assert ["".join(rows[k].sequences[0]) for k in (0, 2)] == ["one", "two"]  # type: ignore[index]
    with pytest.raises(BadDocumentError, match=r"a\.arrow:2: byte 0 of the text is not utf-8"):
        list(rows[1].sequences)


def test_folders_of_shards_go_by_name(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        parquet.write_table(pyarrow.table({"text": TEXTS[number::3]}), tmp_path / f"part-{number}.parquet")
        lines = (json.dumps({"text": text}) + "\n" for text in TEXTS[number::3])
        (tmp_path / f"rest-{number}.jsonl").write_text("".join(lines))
    expected = [[text] for number in range(3) for text in TEXTS[number::3]]
    assert read(tmp_path) == expected * 2


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), size=st.integers(1, 8))
def test_damaged_arrow_files_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, place: float, value: int, size: int
) -> None:
    """Never a crash, and never anything but text."""
    path = tmp_path_factory.mktemp("arrow") / "a.arrow"
    content = bytearray(write(path, {"text": TEXTS, "id": list(range(23))}).read_bytes())
    first = int(place * len(content))
    content[first : first + size] = bytes([value]) * size
    path.write_bytes(content)
    documents: list[list[str]] = []
    with suppress(InputError):
        documents = read(path)
    assert all(isinstance(text, str) for document in documents for text in document)
