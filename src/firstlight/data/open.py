"""From the data section of a configuration to data sets."""

from pathlib import Path

from firstlight.base.errors import InputError
from firstlight.config.data import DataConfig, HeldOut
from firstlight.data.gpt_dataset import GptDataset
from firstlight.data.gpt_order import build_order
from firstlight.data.held_out_dataset import HeldOutDataset, require_one_sample
from firstlight.data.indexed import IndexedDataset
from firstlight.data.split import parse_split, split_bounds


def open_training_data(config: DataConfig, *, steps: int, global_batch_size: int, seed: int) -> GptDataset:
    """The samples of `steps` global batches, in Megatron's order, of the first share of `config.train.split`.

    Raises InputError when a file is missing or damaged, or has not even the tokens of one sample.
    """
    train = config.train
    if len(train.sources) > 1:
        raise InputError(
            f"data.train.sources has {len(train.sources)} sources; only one can be read so far: "
            "prepare their texts together"
        )
    indexed = _open_tokens(train.sources[0].path)
    sequences = split_bounds(parse_split(train.split), len(indexed))[0] or range(0)
    num_tokens = int(indexed.lengths[sequences.start : sequences.stop].sum(dtype="int64"))
    where = f'the first share of data.train.split = "{train.split}" of {indexed.prefix}'
    require_one_sample(num_tokens, train.sequence_length, where)
    order = build_order(
        indexed.lengths,
        sequences,
        num_samples=steps * global_batch_size,
        sequence_length=train.sequence_length,
        seed=seed,
    )
    return GptDataset(indexed, order, train.sequence_length)


def open_held_out(held_out: HeldOut, sequence_length: int) -> HeldOutDataset:
    """All samples of a held-out set. Raises InputError as `open_training_data` does."""
    return HeldOutDataset(_open_tokens(held_out.path), sequence_length)


def _open_tokens(prefix: Path) -> IndexedDataset:
    indexed = IndexedDataset.open(prefix)
    if indexed.dtype.kind not in "iu":
        raise InputError(f"{prefix} holds {indexed.dtype} values, not token ids; name a data set of integers")
    return indexed
