"""From the data section of a configuration to data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger
from firstlight.config.data import DataConfig, HeldOut, TrainData
from firstlight.data import native
from firstlight.data.blend import BlendedDataset, BlendOrder, normalise, sizes_to_build, target_sizes
from firstlight.data.checked_dataset import CheckedDataset
from firstlight.data.contiguous import ContiguousTokens
from firstlight.data.fingerprint import fingerprint_of_sources
from firstlight.data.gpt_dataset import Dataset, GptDataset
from firstlight.data.gpt_order import build_order
from firstlight.data.held_out_dataset import HeldOutDataset, require_one_sample
from firstlight.data.indexed import IndexedDataset
from firstlight.data.permuted import PermutedDataset
from firstlight.data.split import parse_split, split_bounds


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """The samples of a run and the mark of what they are made of."""

    dataset: Dataset
    fingerprint: str


@dataclass(frozen=True, kw_only=True, eq=False)
class _Source:
    """One of the sources, opened: its samples and the tokens of one epoch."""

    dataset: Dataset
    num_tokens: int


def open_training_data(
    config: DataConfig, *, steps: int, global_batch_size: int, seed: int, vocab_size: int
) -> TrainingData:
    """The samples of `steps` global batches from the first share of `data.train.split` of each source.

    One source is read in its own order, several are blended by their weights. Logs what the run reads of each.
    Raises InputError when a file is missing or damaged, or has not even the tokens of one sample; reading raises it
    for a token id that is not below `vocab_size`.
    """
    train = config.train
    num_samples = steps * global_batch_size
    prefixes = [source.path for source in train.sources]
    weights = normalise([source.weight for source in train.sources])
    asked = sizes_to_build(weights, num_samples) if len(prefixes) > 1 else [num_samples]
    sources = [
        _open_source(train, number, num_samples=asked[number], seed=seed, vocab_size=vocab_size)
        for number in range(len(prefixes))
    ]
    dataset = sources[0].dataset
    targets = [num_samples]
    if len(sources) > 1:
        targets = target_sizes(weights, num_samples)
        dataset = BlendedDataset([source.dataset for source in sources], BlendOrder(weights, num_samples))
    _log(train, sources, weights=weights.tolist(), num_samples=targets)
    return TrainingData(dataset=dataset, fingerprint=fingerprint_of_sources(prefixes, weights.tolist(), train.order))


def open_held_out(held_out: HeldOut, sequence_length: int) -> HeldOutDataset:
    """All samples of a held-out set. Raises InputError as `open_training_data` does."""
    indexed = IndexedDataset.open(held_out.path)
    _require_ids(held_out.path, indexed.dtype)
    return HeldOutDataset(indexed, sequence_length)


def _open_source(train: TrainData, number: int, *, num_samples: int, seed: int, vocab_size: int) -> _Source:
    prefix = train.sources[number].path
    if train.order == "permuted":
        source = _open_permuted(train, number, num_samples=num_samples, seed=seed)
    else:
        source = _open_gpt(train, number, num_samples=num_samples, seed=seed)
    checked = CheckedDataset(source.dataset, name=str(prefix), vocab_size=vocab_size)
    return _Source(dataset=checked, num_tokens=source.num_tokens)


def _open_gpt(train: TrainData, number: int, *, num_samples: int, seed: int) -> _Source:
    indexed = IndexedDataset.open(train.sources[number].path)
    _require_ids(indexed.prefix, indexed.dtype)
    sequences = split_bounds(parse_split(train.split), len(indexed))[0] or range(0)
    num_tokens = int(indexed.lengths[sequences.start : sequences.stop].sum(dtype=np.int64))
    require_one_sample(num_tokens, train.sequence_length, _share(train, indexed.prefix))
    order = build_order(
        indexed.lengths, sequences, num_samples=num_samples, sequence_length=train.sequence_length, seed=seed
    )
    return _Source(dataset=GptDataset(indexed, order, train.sequence_length), num_tokens=num_tokens)


def _open_permuted(train: TrainData, number: int, *, num_samples: int, seed: int) -> _Source:
    tokens = ContiguousTokens.open(train.sources[number].path, train.split)
    _require_ids(tokens.prefix, tokens.values.dtype)
    require_one_sample(len(tokens), train.sequence_length, _share(train, tokens.prefix))
    dataset = PermutedDataset(
        tokens, sequence_length=train.sequence_length, num_samples=num_samples, seed=seed, source=number
    )
    return _Source(dataset=dataset, num_tokens=len(tokens))


def _share(train: TrainData, prefix: Path) -> str:
    return f'the first share of data.train.split = "{train.split}" of {prefix}'


def _require_ids(prefix: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iu":
        raise InputError(f"{prefix} holds {dtype} values, not token ids; name a data set of integers")


def _log(train: TrainData, sources: Sequence[_Source], *, weights: list[float], num_samples: list[int]) -> None:
    """A line for each source; of a blend, the samples are those of its weight, rounded up."""
    log = get_logger()
    how = f" ({native.describe()})" if train.order == "megatron" else ""
    log.info(f"training data: {len(sources)} source{'s'[: len(sources) > 1]}, order {train.order}{how}")
    for source, read, weight, samples in zip(sources, train.sources, weights, num_samples, strict=True):
        epochs = samples * train.sequence_length / source.num_tokens
        log.info(
            f"  {read.path}: {source.num_tokens:,} tokens, weight {weight:.4g}; "
            f"the run reads {samples:,} samples, {epochs:.3g} epochs"
        )
