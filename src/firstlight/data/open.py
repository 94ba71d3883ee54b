"""From the data section of a configuration to data sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.log import get_logger
from firstlight.config.data import DataConfig, HeldOut, MindRecordHeldOut
from firstlight.data import native
from firstlight.data.blend import BlendOrder, normalise
from firstlight.data.blended_dataset import BlendedDataset
from firstlight.data.checked_dataset import CheckedDataset
from firstlight.data.cut import Cut, PhaseNeeds, Share, cuts_of, shares_of, tokens_before
from firstlight.data.fim import FimDataset, FimTokens, Rearranging
from firstlight.data.fingerprint import fingerprint_of_sources
from firstlight.data.mindrecord_dataset import open_mindrecord
from firstlight.data.phased_dataset import ContinuedDataset, PhasedDataset
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
    """What a run wants of its data: so many samples, in the order of a seed, of ids below `vocab_size`.

    They are of `data.train.sequence_length` tokens, by the sources' weights; those of `later` phases come after them.
    """

    num_samples: int
    seed: int
    vocab_size: int
    later: tuple[PhaseNeeds, ...] = ()


def open_training_data(config: DataConfig, needs: TrainingNeeds) -> TrainingData:
    """The samples of a run from the first share of `data.train.split` of each source.

    One source is read in its own order, several are blended by their weights. Another sequence length reads other
    documents in an order of its own (see `cut`). Logs what the run reads of each.
    Raises InputError when a file is missing or damaged, or has not even the tokens of one sample; reading raises it
    for a token id that is not below `vocab_size`.
    """
    train = config.train
    around = Surroundings(train=train, tokenizer=config.tokenizer, seed=needs.seed)
    whole = [open_source(around, number) for number in range(len(train.sources))]
    cuts = cuts_of(*_weighted(config, whole, needs))
    shares, before = shares_of(cuts), tokens_before(cuts)
    _log_run(config, whole)
    opened = [
        _open_cut(
            config,
            needs,
            _Sources(cut=cut, whole=whole, shares=mine, tokens_before=done),
        )
        for cut, mine, done in zip(cuts, shares, before, strict=True)
    ]
    how: list[Any] = [train.order, train.fill_in_the_middle.model_dump() if train.fill_in_the_middle else None]
    if len(cuts) > 1:
        how.append([[cut.sequence_length, list(cut.sizes)] for cut in cuts])
    mark = fingerprint_of_sources(
        [source.fingerprint for source in whole], [one.tolist() for cut in cuts for one in cut.weights], how
    )
    dataset = opened[0] if len(cuts) == 1 else PhasedDataset(opened, [cut.num_samples for cut in cuts])
    return TrainingData(dataset=dataset, fingerprint=mark)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sources:
    """What a cut reads of each source: a share of it, or what comes behind so many tokens."""

    cut: Cut
    whole: Sequence[OpenedSource]
    shares: Sequence[Share]
    tokens_before: Sequence[int]


def _open_cut(config: DataConfig, needs: TrainingNeeds, sources: _Sources) -> Dataset:
    """The samples of one sequence length."""
    cut = sources.cut
    train = config.train.model_copy(update={"sequence_length": cut.sequence_length})
    opened: dict[int, OpenedSource] = {}
    for number, share in enumerate(sources.shares):
        if share.end > share.begin or len(sources.shares) == 1:
            around = Surroundings(train=train, tokenizer=config.tokenizer, seed=needs.seed, share=share)
            is_known = cut.sequence_length == config.train.sequence_length and share.is_whole
            opened[number] = sources.whole[number] if is_known else open_source(around, number)
    targets = [cut.num_samples] if len(sources.shares) == 1 else cut.targets()
    if needs.later:
        get_logger().info(f"sequence length {cut.sequence_length:,}:")
    _log_cut(cut, opened, targets)
    asked = targets if len(sources.shares) == 1 else cut.asked()
    datasets = [_built(one, number, asked[number], sources, needs) for number, one in opened.items()]
    if len(sources.shares) == 1:
        return _with_fim(datasets[0], config, needs.seed)
    # A source that gives nothing in the whole cut is not opened: it may have no sample of this length.
    stages = [_stage(weights[list(opened)], size) for weights, size in zip(cut.weights, cut.sizes, strict=True)]
    return _with_fim(BlendedDataset(datasets, stages), config, needs.seed)


def _built(source: OpenedSource, number: int, num_samples: int, sources: _Sources, needs: TrainingNeeds) -> Dataset:
    skipped = -(-sources.tokens_before[number] // sources.cut.sequence_length) if source.is_read_through else 0
    dataset: Dataset = CheckedDataset(
        source.build(num_samples + skipped), name=source.name, vocab_size=needs.vocab_size
    )
    return ContinuedDataset(dataset, skipped) if skipped else dataset


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


def _weighted(
    config: DataConfig, sources: Sequence[OpenedSource], needs: TrainingNeeds
) -> tuple[list[PhaseNeeds], list[NDArray[np.float64]]]:
    """The phases and their weights. Without weights a source's is the number of its samples in one epoch, as
    Megatron's."""
    train = config.train
    weights = [
        float(source.samples_per_epoch or 1) if given.weight is None else given.weight
        for source, given in zip(sources, train.sources, strict=True)
    ]
    first = PhaseNeeds(num_samples=needs.num_samples, sequence_length=train.sequence_length)
    phases, by_phase = [first, *needs.later], []
    for phase in phases:
        weights = weights if phase.weights is None else list(phase.weights)
        by_phase.append(normalise(weights))
    return phases, by_phase


def _log_run(config: DataConfig, sources: Sequence[OpenedSource]) -> None:
    order = config.train.order
    how = f" ({native.describe()})" if order == "megatron" else ""
    get_logger().info(f"training data: {len(sources)} source{'s'[: len(sources) > 1]}, order {order}{how}")


def _log_cut(cut: Cut, sources: Mapping[int, OpenedSource], targets: Sequence[int]) -> None:
    """A line for each source; of a blend, the samples are those of its weight, rounded up."""
    for number, source in sources.items():
        weights = ", then ".join(f"{weights[number]:.4g}" for weights in cut.weights)
        reads = f"the run reads {targets[number]:,} samples"
        if source.num_tokens:
            reads += f", {targets[number] * cut.sequence_length / source.num_tokens:.3g} epochs"
        size = f"{source.num_tokens:,} tokens, " if source.num_tokens else ""
        get_logger().info(f"  {source.name}: {size}weight {weights}; {reads}")
