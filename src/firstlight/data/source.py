"""The sources of training data: each is opened, then built for as many samples as a run takes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger
from firstlight.config.data import HuggingFaceSource, MegatronSource, MindRecordSource, MockSource, TrainData
from firstlight.data.contiguous import ContiguousDataset, ContiguousTokens
from firstlight.data.cut import Share
from firstlight.data.epochs import Epochs
from firstlight.data.fingerprint import fingerprint, fingerprint_of_files
from firstlight.data.gpt_dataset import GptDataset
from firstlight.data.indexed import IndexedDataset
from firstlight.data.mindrecord_dataset import open_mindrecord
from firstlight.data.mock_dataset import MockDataset, mock_lengths
from firstlight.data.order_cache import open_order
from firstlight.data.packed_dataset import PackedDataset
from firstlight.data.samples import Dataset
from firstlight.data.sequential_dataset import SequentialDataset, require_one_sample
from firstlight.data.split import parse_split, split_bounds
from firstlight.data.streamed_source import StreamedSource
from firstlight.data.tokenizer import end_of_document_id, load_tokenizer, vocabulary_size


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What opening a source needs beside the source."""

    train: TrainData
    tokenizer: Path
    seed: int
    share: Share = Share()
    """Of its documents, after `train.split`; a source that is read through has no shares."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedSource:
    """A source whose size is known; `build` gives the data set of at least so many samples.

    `num_tokens`, `samples_per_epoch`: of one epoch, None where it is not known before it was read.
    """

    name: str
    fingerprint: str
    num_tokens: int | None
    samples_per_epoch: int | None
    build: Callable[[int], Dataset]
    is_read_through: bool = False
    """No shares are made of it: another sequence length goes on behind what was read."""


def open_source(around: Surroundings, number: int) -> OpenedSource:
    """Source `number` of the run. Raises InputError when it is missing, damaged or too small."""
    match around.train.sources[number]:
        case MegatronSource() as source:
            openers = {
                "megatron": _open_gpt,
                "permuted": _open_permuted,
                "packed": _open_packed,
                "sequential": _open_sequential,
            }
            return openers[around.train.order](around, source, number)
        case MindRecordSource() as source:
            return _open_mindrecord(around, source, number)
        case MockSource():
            return _open_mock(around)
        case HuggingFaceSource() as source:
            return _open_streamed(around, source, number)


def open_indexed(prefix: Path) -> IndexedDataset:
    """A Megatron data set of token ids. Raises InputError."""
    indexed = IndexedDataset.open(prefix)
    _require_ids(prefix, indexed.dtype)
    return indexed


def _open_gpt(around: Surroundings, source: MegatronSource, _number: int) -> OpenedSource:
    train = around.train
    indexed = open_indexed(source.path)
    sequences = _sequences(around, indexed)
    num_tokens = int(indexed.lengths[sequences.start : sequences.stop].sum(dtype=np.int64))
    require_one_sample(num_tokens, train.sequence_length, _share(train, source.path))

    def build(num_samples: int) -> Dataset:
        order = open_order(
            indexed,
            sequences,
            num_samples=num_samples,
            sequence_length=train.sequence_length,
            seed=around.seed,
            cache=train.index_cache,
        )
        return GptDataset(indexed, order, train.sequence_length)

    return _opened(source.path, num_tokens, train, build)


def _open_permuted(around: Surroundings, source: MegatronSource, number: int) -> OpenedSource:
    train = around.train
    tokens = ContiguousTokens.open(source.path, train.split, around.share, at_least=train.sequence_length + 1)
    _require_ids(source.path, tokens.values.dtype)
    require_one_sample(len(tokens), train.sequence_length, _share(train, source.path))
    dataset = ContiguousDataset(tokens, train.sequence_length)

    def build(num_samples: int) -> Dataset:
        return Epochs(dataset, num_samples=num_samples, seed=around.seed, source=number)

    return _opened(source.path, len(tokens), train, build)


def _open_sequential(around: Surroundings, source: MegatronSource, _number: int) -> OpenedSource:
    train = around.train
    indexed = open_indexed(source.path)
    dataset = SequentialDataset(indexed, train.sequence_length, _sequences(around, indexed))

    def build(num_samples: int) -> Dataset:
        return Epochs(dataset, num_samples=num_samples, seed=None)

    return _opened(source.path, dataset.num_tokens, train, build)


def _open_packed(around: Surroundings, source: MegatronSource, number: int) -> OpenedSource:
    train = around.train
    indexed = open_indexed(source.path)
    dataset = PackedDataset(indexed, train.sequence_length, _sequences(around, indexed))
    if not len(dataset):
        require_one_sample(0, train.sequence_length, _share(train, source.path))
    get_logger().info(
        f"{source.path}: {len(dataset):,} packed rows, {dataset.share_of_padding:.2%} of their places are padding"
    )

    def build(num_samples: int) -> Dataset:
        return Epochs(dataset, num_samples=num_samples, seed=around.seed, source=number)

    return OpenedSource(
        name=str(source.path),
        fingerprint=fingerprint(source.path),
        num_tokens=dataset.num_tokens,
        samples_per_epoch=len(dataset),
        build=build,
    )


def _open_mock(around: Surroundings) -> OpenedSource:
    train = around.train
    tokenizer = load_tokenizer(around.tokenizer)
    end_of_document = end_of_document_id(tokenizer, around.tokenizer)
    lengths = mock_lengths()
    documents = _shared(around, _first_share(train, len(lengths)), lengths)
    num_tokens = int(lengths[documents.start : documents.stop].sum(dtype=np.int64))
    require_one_sample(num_tokens, train.sequence_length, f'the first share of data.train.split = "{train.split}"')

    def build(num_samples: int) -> Dataset:
        return MockDataset(
            train.sequence_length,
            num_samples=num_samples,
            seed=around.seed,
            end_of_document=end_of_document,
            vocab_size=vocabulary_size(tokenizer),
            documents=documents,
        )

    return OpenedSource(
        name="mock data",
        fingerprint="mock",
        num_tokens=num_tokens,
        samples_per_epoch=(num_tokens - 1) // train.sequence_length,
        build=build,
    )


def _open_mindrecord(around: Surroundings, source: MindRecordSource, number: int) -> OpenedSource:
    """Rows are samples already: every order but `sequential` permutes them, each epoch anew."""
    train = around.train
    dataset = open_mindrecord(
        source.path,
        train.sequence_length,
        tokens_column=source.tokens_column,
        labels_column=source.labels_column,
    )
    seed = None if train.order == "sequential" else around.seed

    def build(num_samples: int) -> Dataset:
        return Epochs(dataset, num_samples=num_samples, seed=seed, source=number)

    return OpenedSource(
        name=str(source.path),
        fingerprint=fingerprint_of_files(dataset.files),
        num_tokens=len(dataset) * train.sequence_length,
        samples_per_epoch=len(dataset),
        build=build,
        is_read_through=True,
    )


def _open_streamed(around: Surroundings, source: HuggingFaceSource, number: int) -> OpenedSource:
    """Text in its own order, whatever `order` says; how much there is, is not known."""
    train = around.train
    if source.weight is None and len(train.sources) > 1:
        raise InputError(
            f"data.train.sources.{number}.weight = null means as many samples as {source.path} has, which is not known "
            "before it was read; give every source a weight"
        )
    streamed = StreamedSource(source=source, number=number, tokenizer=around.tokenizer, seed=around.seed)
    texts = streamed.texts()

    def build(num_samples: int) -> Dataset:
        return streamed.build(texts, num_samples, train.sequence_length)

    return OpenedSource(
        name=streamed.name,
        fingerprint=streamed.fingerprint(),
        num_tokens=None,
        samples_per_epoch=None,
        build=build,
        is_read_through=True,
    )


def _opened(prefix: Path, num_tokens: int, train: TrainData, build: Callable[[int], Dataset]) -> OpenedSource:
    return OpenedSource(
        name=str(prefix),
        fingerprint=fingerprint(prefix),
        num_tokens=num_tokens,
        samples_per_epoch=(num_tokens - 1) // train.sequence_length,
        build=build,
    )


def _sequences(around: Surroundings, indexed: IndexedDataset) -> range:
    return _shared(around, _first_share(around.train, len(indexed)), indexed.lengths)


def _shared(around: Surroundings, sequences: range, lengths: NDArray[np.int32]) -> range:
    """What of `sequences` the run reads at this sequence length; `lengths` are of all sequences of the file."""
    if around.share.is_whole:
        return sequences
    ends = np.cumsum(lengths[: sequences.stop], dtype=np.int64)
    last = int(ends[-1]) if len(ends) else 0
    return around.share.of(sequences, ends - lengths[: sequences.stop], last, at_least=around.train.sequence_length + 1)


def _first_share(train: TrainData, num_sequences: int) -> range:
    return split_bounds(parse_split(train.split), num_sequences)[0] or range(0)


def _share(train: TrainData, prefix: Path) -> str:
    return f'the first share of data.train.split = "{train.split}" of {prefix}'


def _require_ids(prefix: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iu":
        raise InputError(f"{prefix} holds {dtype} values, not token ids; name a data set of integers")
