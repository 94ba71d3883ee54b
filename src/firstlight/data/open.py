"""From the data section of a configuration to data sets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firstlight.base.log import get_logger
from firstlight.config.data import DataConfig, HeldOut, MindRecordHeldOut
from firstlight.data import native
from firstlight.data.blend import BlendOrder, normalise, sizes_to_build, target_sizes
from firstlight.data.blended_dataset import BlendedDataset
from firstlight.data.checked_dataset import CheckedDataset
from firstlight.data.fim import FimDataset, FimTokens, Rearranging
from firstlight.data.fingerprint import fingerprint_of_sources
from firstlight.data.mindrecord_dataset import open_mindrecord
from firstlight.data.samples import Dataset
from firstlight.data.sequential_dataset import SequentialDataset
from firstlight.data.source import OpenedSource, Surroundings, open_indexed, open_source
from firstlight.data.split import parse_split, split_bounds
from firstlight.data.tokenizer import end_of_document_id, load_tokenizer, token_id

_SHARES = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """The samples of a run and the mark of what they are made of."""

    dataset: Dataset
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class TrainingNeeds:
    """What a run wants of its data: so many global batches, in the order of a seed, of ids below `vocab_size`."""

    steps: int
    global_batch_size: int
    seed: int
    vocab_size: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Mixture:
    """How many samples each stage of a run takes, by which weights; None: there is one source, read alone."""

    sizes: Sequence[int]
    weights: Sequence[NDArray[np.float64]]

    def asked(self) -> list[int]:
        """Samples to build of each source, as many more as Megatron asks for."""
        by_stage = [sizes_to_build(one, size) for one, size in zip(self.weights, self.sizes, strict=True)]
        return [sum(one) for one in zip(*by_stage, strict=True)]

    def targets(self) -> list[int]:
        """Samples that each source gives at most."""
        by_stage = [target_sizes(one, size) for one, size in zip(self.weights, self.sizes, strict=True)]
        return [sum(one) for one in zip(*by_stage, strict=True)]


def open_training_data(config: DataConfig, needs: TrainingNeeds) -> TrainingData:
    """The samples of a run from the first share of `data.train.split` of each source.

    One source is read in its own order, several are blended by their weights. Logs what the run reads of each.
    Raises InputError when a file is missing or damaged, or has not even the tokens of one sample; reading raises it
    for a token id that is not below `vocab_size`.
    """
    train = config.train
    around = Surroundings(train=train, tokenizer=config.tokenizer, seed=needs.seed)
    sources = [open_source(around, number) for number in range(len(train.sources))]
    num_samples = needs.steps * needs.global_batch_size
    mixture = _mixture(config, sources, needs)
    if len(sources) == 1:
        targets = [num_samples]
        dataset: Dataset = _checked(sources[0], num_samples, needs)
    else:
        targets = mixture.targets()
        asked = mixture.asked()
        dataset = BlendedDataset(
            [_checked(one, size, needs) for one, size in zip(sources, asked, strict=True)],
            [_stage(one, size) for one, size in zip(mixture.weights, mixture.sizes, strict=True)],
        )
    _log(config, sources, mixture, targets)
    mark = fingerprint_of_sources(
        [source.fingerprint for source in sources],
        [weights.tolist() for weights in mixture.weights],
        [train.order, train.fill_in_the_middle.model_dump() if train.fill_in_the_middle else None],
    )
    return TrainingData(dataset=_with_fim(dataset, config, needs.seed), fingerprint=mark)


def open_held_out(held_out: HeldOut, sequence_length: int) -> Dataset:
    """All samples of a held-out set. Raises InputError as `open_training_data` does."""
    if isinstance(held_out, MindRecordHeldOut):
        return open_mindrecord(
            held_out.path,
            sequence_length,
            tokens_column=held_out.tokens_column,
            labels_column=held_out.labels_column,
        )
    indexed = open_indexed(held_out.path)
    sequences = None
    if held_out.split is not None:
        sequences = split_bounds(parse_split(held_out.split), len(indexed))[_SHARES[held_out.share]] or range(0)
    return SequentialDataset(indexed, sequence_length, sequences)


def _checked(source: OpenedSource, num_samples: int, needs: TrainingNeeds) -> Dataset:
    return CheckedDataset(source.build(num_samples), name=source.name, vocab_size=needs.vocab_size)


def _with_fim(dataset: Dataset, config: DataConfig, seed: int) -> Dataset:
    """`dataset` with documents rearranged, where the configuration wants it."""
    fim = config.train.fill_in_the_middle
    if fim is None:
        return dataset
    tokenizer, path = load_tokenizer(config.tokenizer), config.tokenizer
    where = "data.train.fill_in_the_middle"
    tokens = FimTokens(
        prefix=token_id(tokenizer, path, fim.prefix_token, f"{where}.prefix_token"),
        middle=token_id(tokenizer, path, fim.middle_token, f"{where}.middle_token"),
        suffix=token_id(tokenizer, path, fim.suffix_token, f"{where}.suffix_token"),
        end_of_document=end_of_document_id(tokenizer, path),
    )
    how = Rearranging.with_tokenizer(tokenizer, tokens, rate=fim.rate, spm_rate=fim.spm_rate)
    return FimDataset(dataset, how, seed=seed)


def _stage(weights: NDArray[np.float64], size: int) -> BlendOrder:
    """A source of weight 0 gives nothing; Megatron's rule alone would let it win a tie."""
    is_open = weights > 0
    return BlendOrder(weights, size, None if is_open.all() else np.where(is_open, size, 0).tolist())


def _mixture(config: DataConfig, sources: Sequence[OpenedSource], needs: TrainingNeeds) -> _Mixture:
    """The stages of the run. Without weights a source's is the number of its samples in one epoch, as Megatron's."""
    train, num_samples = config.train, needs.steps * needs.global_batch_size
    written = [source.weight for source in train.sources]
    first = [
        float(source.samples_per_epoch or 1) if weight is None else weight
        for source, weight in zip(sources, written, strict=True)
    ]
    changes = [change for change in train.weight_changes if change.from_step < needs.steps]
    starts = [0, *(change.from_step * needs.global_batch_size for change in changes), num_samples]
    weights = [first, *(list(change.weights) for change in changes)]
    return _Mixture(sizes=np.diff(starts).tolist(), weights=[normalise(one) for one in weights])


def _log(config: DataConfig, sources: Sequence[OpenedSource], mixture: _Mixture, targets: Sequence[int]) -> None:
    """A line for each source; of a blend, the samples are those of its weight, rounded up."""
    log, train = get_logger(), config.train
    how = f" ({native.describe()})" if train.order == "megatron" else ""
    log.info(f"training data: {len(sources)} source{'s'[: len(sources) > 1]}, order {train.order}{how}")
    for number, (source, samples) in enumerate(zip(sources, targets, strict=True)):
        weights = ", then ".join(f"{weights[number]:.4g}" for weights in mixture.weights)
        reads = f"the run reads {samples:,} samples"
        if source.num_tokens:
            reads += f", {samples * train.sequence_length / source.num_tokens:.3g} epochs"
        size = f"{source.num_tokens:,} tokens, " if source.num_tokens else ""
        log.info(f"  {source.name}: {size}weight {weights}; {reads}")
