"""Text that is read and tokenised while training: the same samples however often the reading was broken off."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.config.data import DataConfig
from firstlight.config.timeline import Timeline
from firstlight.data.open import TrainingNeeds, open_training_data
from firstlight.data.reader import ThreadReader
from firstlight.data.samples import Dataset, Positioned, read_samples
from firstlight.data.stream import TokenStream
from firstlight.data.tokenizer import END_OF_DOCUMENT, load_tokenizer, train_tokenizer
from firstlight.data.worker import Assignment
from firstlight.data.worker_reader import WorkerReader

datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
pyarrow = pytest.importorskip("pyarrow", reason="the package pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

LENGTH = 8
NUM_SAMPLES = 96
TEXTS = [f"text {number} " + "word " * (number % 7) if number % 5 else "" for number in range(37)]


@pytest.fixture(scope="module", autouse=True)
def few_rows() -> Iterator[None]:
    """So few rows in a batch that states of `datasets` lie within shards and row groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("firstlight.data.streamed_texts._BATCH_ROWS", 4)
        yield


@pytest.fixture(scope="module", params=["jsonl", "parquet", "text", "saved"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TEXTS in three shards of one kind, and a tokenizer beside them."""
    root = tmp_path_factory.mktemp(request.param)
    train_tokenizer(["text word "], 262).save(str(root / "tokenizer.json"))
    write: dict[str, Callable[[Path], Any]] = {
        "jsonl": _write_jsonl,
        "parquet": _write_parquet,
        "text": _write_text,
        "saved": lambda path: datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(path, num_shards=3),
    }
    (root / "in").mkdir()
    write[request.param](root / "in")
    return root


def _write_jsonl(path: Path) -> None:
    for number in range(3):
        lines = (json.dumps({"text": text, "id": 1}) + "\n" for text in TEXTS[number * 13 : number * 13 + 13])
        (path / f"{number}.jsonl").write_text("".join(lines))


def _write_parquet(path: Path) -> None:
    for number in range(3):
        table = pyarrow.table({"id": range(13), "text": (TEXTS + ["", ""])[number * 13 : number * 13 + 13]})
        parquet.write_table(table, path / f"{number}.parquet", row_group_size=3)


def _write_text(path: Path) -> None:
    for number in range(3):
        (path / f"{number}.txt").write_text("\n".join(TEXTS[number * 13 : number * 13 + 13]))


def config(folder: Path, *more: dict[str, Any], **changes: Any) -> DataConfig:
    source = {"kind": "huggingface", "path": str(folder / "in"), **changes}
    train = {"sources": [source, *more], "sequence_length": LENGTH}
    return DataConfig.model_validate({"train": train, "tokenizer": folder / "tokenizer.json"})


def opened(folder: Path, **changes: Any) -> Dataset:
    needs = TrainingNeeds(num_samples=NUM_SAMPLES // 6 * 6, seed=3, vocab_size=262)
    return open_training_data(config(folder, **changes), needs).dataset


def read(dataset: Dataset, *numbers: int) -> list[list[int]]:
    samples = read_samples(dataset, np.array(numbers, np.int64))
    assert (samples.num_real == LENGTH + 1).all()
    return samples.tokens.tolist()


def laid_end_to_end(folder: Path, texts: list[str], num_tokens: int) -> tuple[list[int], list[bool]]:
    tokenizer = load_tokenizer(folder)
    ids: list[int] = []
    begins: list[bool] = []
    while len(ids) < num_tokens:
        for text in filter(None, texts):
            tokens = [*tokenizer.encode(text).ids, tokenizer.token_to_id(END_OF_DOCUMENT)]
            ids += tokens
            begins += [True] + [False] * (len(tokens) - 1)
    return ids, begins


def test_documents_lie_end_to_end_and_are_repeated(folder: Path) -> None:
    num_tokens = NUM_SAMPLES * LENGTH + 1
    ids, begins = laid_end_to_end(folder, TEXTS, num_tokens)
    assert num_tokens > 1.5 * len(laid_end_to_end(folder, TEXTS, 1)[0])  # more than one epoch
    samples = read_samples(opened(folder), np.arange(NUM_SAMPLES))
    for number in range(NUM_SAMPLES):
        here = slice(number * LENGTH, number * LENGTH + LENGTH + 1)
        assert samples.tokens[number].tolist() == ids[here]
        assert samples.begins[number].tolist() == [True, *begins[here][1:]]


@settings(max_examples=6, deadline=None)
@given(
    split=st.integers(0, 5),
    ranks=st.sampled_from([(1, 1), (2, 1), (3, 2)]),
    later=st.sampled_from([(1, 2), (2, 3), (6, 1)]),
    buffer=st.sampled_from([0, 1, 4, 1000]),
)
def test_any_split_on_any_number_of_ranks(
    folder: Path, split: int, ranks: tuple[int, int], later: tuple[int, int], buffer: int
) -> None:
    """`ranks` read the first batches, `later` go on from what one of them saved."""
    expected = _batches(folder, buffer, (1, 6), {}, 8)
    state: dict[str, Any] = {}
    head = _batches(folder, buffer, ranks, {}, split, state)
    tail = _batches(folder, buffer, later, state if split else {}, 8 - split)
    assert head + tail == expected


def _batches(
    folder: Path,
    buffer: int,
    ranks: tuple[int, int],
    state: dict[str, Any],
    count: int,
    saved: dict[str, Any] | None = None,
) -> list[list[list[int]]]:
    """Batches of all (number, micro-batch size) `ranks`, put together; `saved` takes the state of the last one."""
    size, micro = ranks
    rows: list[list[NDArray[np.int32]]] = []
    for rank in range(size):
        stream = TokenStream(
            opened(folder, shuffle_buffer=buffer),
            timeline=Timeline.even(batch_size=6),
            micro_batch_size=micro,
            data_rank=rank,
            data_size=size,
            reader=None,
        )
        if state:
            stream.load_state_dict(json.loads(json.dumps(state)))
        rows.append([next(stream).tokens for _ in range(count)])
        if saved is not None:
            saved.update(stream.state_dict())
    together = []
    for step in range(count):
        parts = [one[step].reshape(-1, micro, LENGTH) for one in rows]
        together.append(np.stack(parts, axis=1).reshape(6, LENGTH).tolist())
    return together


@pytest.mark.parametrize("buffer", [0, 4])
def test_numbers_may_jump_and_go_back(folder: Path, buffer: int) -> None:
    expected = read(opened(folder, shuffle_buffer=buffer), *range(NUM_SAMPLES))
    dataset = opened(folder, shuffle_buffer=buffer)
    assert isinstance(dataset, Positioned)
    positions = {}
    for number in (5, 40, 70):
        positions[number] = json.loads(json.dumps(dataset.position(number)))
        assert read(dataset, number) == [expected[number]]
    for number in (90, 3, 41, 0, 69):  # back: from the nearest position that is known
        assert read(dataset, number) == [expected[number]]
    other = opened(folder, shuffle_buffer=buffer)
    assert isinstance(other, Positioned)
    for number in (70, 5, 40):
        other.go_to(number, positions[number])
        assert read(other, number + 2, number) == [expected[number + 2], expected[number]]
    with pytest.raises(InputError, match="not one of before sample 3"):
        other.go_to(3, positions[70])
    with pytest.raises(InputError, match="is not one"):
        other.go_to(70, {**positions[70], "document": {"epoch": 0}})


def test_each_epoch_has_all_documents_in_an_order_of_its_own(folder: Path) -> None:
    num_tokens = len(laid_end_to_end(folder, TEXTS, 1)[0])
    as_they_lie, shuffled = (
        np.concatenate([row[:-1] for row in read(opened(folder, shuffle_buffer=size), *range(NUM_SAMPLES))])
        for size in (0, 1000)
    )
    as_they_lie_once, shuffled_once = as_they_lie[:num_tokens].tolist(), shuffled[:num_tokens].tolist()
    assert shuffled_once != as_they_lie_once
    assert _documents(shuffled_once) == _documents(as_they_lie_once)
    rest = NUM_SAMPLES * LENGTH - num_tokens
    assert shuffled[num_tokens:].tolist() != shuffled[:rest].tolist()


def _documents(ids: list[int]) -> list[list[int]]:
    parts = np.split(ids, np.flatnonzero(np.array(ids) == 0) + 1)
    return sorted(part.tolist() for part in parts)


@pytest.mark.parametrize("buffer", [0, 5])
def test_read_ahead_with_a_blend_and_resumed(folder: Path, buffer: int) -> None:
    """Through open_training_data, TokenStream and a reader that reads two batches ahead."""
    other = {"kind": "huggingface", "path": str(folder / "in"), "shuffle_buffer": 3, "weight": 2}
    needs = TrainingNeeds(num_samples=10 * 6, seed=3, vocab_size=262)

    def stream() -> TokenStream:
        dataset = open_training_data(config(folder, other, shuffle_buffer=buffer), needs).dataset
        return TokenStream(
            dataset,
            timeline=Timeline.even(batch_size=6),
            micro_batch_size=3,
            data_rank=0,
            data_size=1,
            reader=ThreadReader(dataset, 2),
        )

    undisturbed = stream()
    expected = [next(undisturbed).tokens.tolist() for _ in range(10)]
    undisturbed.close()
    first, second = stream(), stream()
    assert [next(first).tokens.tolist() for _ in range(4)] == expected[:4]
    state = json.loads(json.dumps(first.state_dict()))
    first.close()
    second.load_state_dict(state)
    assert [next(second).tokens.tolist() for _ in range(6)] == expected[4:]
    second.load_state_dict(state)  # a rewind
    assert [next(second).tokens.tolist() for _ in range(2)] == expected[4:6]
    second.close()


def test_workers_read_the_same(one: Path) -> None:
    needs = TrainingNeeds(num_samples=4 * 2, seed=3, vocab_size=262)
    assignment = Assignment(config=config(one, shuffle_buffer=3), needs=needs)
    batches = []
    for reader in (None, WorkerReader(assignment, 1)):
        stream = TokenStream(
            open_training_data(assignment.config, needs).dataset,
            timeline=Timeline.even(batch_size=2),
            micro_batch_size=2,
            data_rank=0,
            data_size=1,
            reader=reader,
        )
        batches.append([next(stream).tokens.tolist() for _ in range(4)])
        stream.close()
    assert batches[0] == batches[1]


@pytest.fixture
def one(tmp_path: Path) -> Path:
    train_tokenizer(["text word "], 262).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "a b c"}\n' * 9)
    return tmp_path


def test_what_cannot_be_read_is_named(one: Path) -> None:
    (one / "tokenizer.xyz").write_text("")
    for changes, message in (
        ({"text_key": "body"}, "has no column \"body\" but 'text'; name one with text_key"),
        ({"path": str(one / "none")}, "datasets cannot open .*none"),
        ({"split": "test"}, "datasets cannot open .*split test"),
        ({"path": str(one / "tokenizer.xyz")}, r"'\.xyz' is none of \.jsonl"),
    ):
        with pytest.raises(InputError, match=message):
            read(opened(one, **changes), 0)
    source = {"kind": "huggingface", "path": str(one / "in"), "weight": None}
    needs = TrainingNeeds(num_samples=1, seed=3, vocab_size=262)
    with pytest.raises(InputError, match=r"sources\.0\.weight = null"):
        open_training_data(config(one, source, weight=None), needs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": ""}\n' * 3, "no text in any"),
        ('{"text": "a"}\n{"te', "cannot be read after its row 0"),
        ('{"text": 5}\n', "document 0 after row 0 of shard 0: .* neither a text nor a list of texts"),
    ],
)
def test_bad_content_has_a_place(one: Path, content: str, message: str) -> None:
    (one / "in" / "a.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        read(opened(one), 0, 1, 2)


def test_the_fingerprint_follows_files_tokenizer_and_way_of_reading(one: Path) -> None:
    needs = TrainingNeeds(num_samples=1, seed=3, vocab_size=300)

    def mark(**changes: Any) -> str:
        return open_training_data(config(one, **changes), needs).fingerprint

    marks = [mark(), mark(shuffle_buffer=4), mark(weight=7)]
    (one / "in" / "a.jsonl").write_text('{"text": "a b d"}\n' * 9)
    marks.append(mark())
    train_tokenizer(["text word "], 261).save(str(one / "tokenizer.json"))
    marks.append(mark())
    (one / "in").rename(one / "moved")
    marks.append(mark(path=str(one / "moved")))
    assert marks[2] == marks[0]
    assert marks[5] == marks[4]
    assert len(set(marks)) == 4
