"""The order in which Megatron-LM's GPTDataset reads a data set, to the bit (core/datasets/gpt_dataset.py).

Sequences of `num_epochs` epochs are shuffled, laid end to end and cut into samples of `sequence_length` tokens
(plus the one that is the last label); then the samples are shuffled. If the last epoch is needed only in part,
it is shuffled by itself, so that what it repeats comes last.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data import native
from firstlight.data.shuffle import shuffle

_BLOCK = 1 << 20
_LARGEST_INT32 = 2**31 - 1
_LARGEST_UINT32 = 2**32 - 1
_SEPARATE_BELOW = 0.80
"""The last epoch is shuffled by itself when less than this share of it is needed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GptOrder:
    """Which tokens each sample has.

    document_index int32 [epochs * sequences]: sequence ids in reading order.
    sample_index int32 or int64 [M + 1, 2]: (position in document_index, token offset) where each sample starts.
    shuffle_index uint32 or int64 [M]: sample k of the data set is the shuffle_index[k]-th one cut.
    """

    document_index: NDArray[Any]
    sample_index: NDArray[Any]
    shuffle_index: NDArray[Any]
    extra_token: int = 1


@dataclass(frozen=True, kw_only=True)
class OrderPlan:
    """Counts that follow from tokens per epoch and the samples asked for."""

    num_epochs: int
    num_samples: int
    num_samples_before_last_epoch: int | None
    """Samples of all epochs but the last one, when that one is shuffled by itself; else None."""


def build_order(
    lengths: NDArray[Any],
    sequences: range,
    *,
    num_samples: int | None,
    sequence_length: int,
    seed: int,
    extra_token: int = 1,
    keeps_rest: bool = False,
) -> GptOrder:
    """The order of at least `num_samples` samples (None: of one epoch) of the sequences with these ids.

    With `keeps_rest` there is a last sample, not full, where tokens are left over: Megatron's
    drop_last_partial_validation_sequence = False, counted in whole numbers where Megatron rounds in 32-bit floats.
    `lengths` holds the lengths of all sequences of the file, int32 [S]. Without tokens the order is empty.
    Raises InputError when numpy's RandomState cannot take the seed.
    """
    if not 0 <= seed <= _LARGEST_UINT32:
        raise InputError(f"seed {seed} is not within 0 and {_LARGEST_UINT32}, as Megatron's data order needs it")
    num_tokens = int(lengths[sequences.start : sequences.stop].sum(dtype=np.int64))
    plan = plan_order(num_tokens, num_samples=num_samples, sequence_length=sequence_length, extra_token=extra_token)
    random = np.random.RandomState(seed)
    separate = plan.num_samples_before_last_epoch
    document_index = _document_index(sequences, plan.num_epochs, separate is not None, random)
    sample_index = build_sample_index(
        lengths,
        document_index,
        num_samples=plan.num_samples,
        sequence_length=sequence_length,
        extra_token=extra_token,
    )
    num_rest = plan.num_epochs * num_tokens - extra_token - plan.num_samples * sequence_length
    if keeps_rest and num_rest > 0:
        end = (len(document_index) - 1, int(lengths[document_index[-1]]) - extra_token)
        sample_index = np.concatenate((sample_index, np.array([end], sample_index.dtype)))
    shuffle_index = _shuffle_index(len(sample_index) - 1, separate, random)
    return GptOrder(
        document_index=document_index, sample_index=sample_index, shuffle_index=shuffle_index, extra_token=extra_token
    )


def build_sample_index(
    lengths: NDArray[Any],
    document_index: NDArray[Any],
    *,
    num_samples: int,
    sequence_length: int,
    extra_token: int = 1,
) -> NDArray[Any]:
    """(position in document_index, token offset) of the start of each sample and of the end of the last one.

    Returns int32 [num_samples + 1, 2], int64 when a position needs it. Beyond the result, memory is bounded.
    """
    dtype = np.int32 if len(document_index) <= _LARGEST_INT32 else np.int64
    rows = np.zeros((num_samples + 1, 2), dtype)  # the first sample starts at (0, 0), even before empty sequences
    if native.COMPILED:
        native.COMPILED.sample_index(lengths, document_index, rows, sequence_length, extra_token)
    else:
        _fill_sample_index(rows, lengths, document_index, sequence_length, extra_token)
    return rows


def _fill_sample_index(
    rows: NDArray[Any], lengths: NDArray[Any], document_index: NDArray[Any], sequence_length: int, extra_token: int
) -> None:
    num_samples = len(rows) - 1
    row = 1
    num_before = 0
    for begin in range(0, len(document_index), _BLOCK):
        block = lengths[document_index[begin : begin + _BLOCK]].astype(np.int64)
        ends = num_before + np.cumsum(block)
        num_before = int(ends[-1])
        # Sample k starts in the sequence that holds token k * L + x - 1, the last one of the sample before it.
        last = min(num_samples, (num_before - extra_token) // sequence_length)
        wanted = np.arange(row, last + 1, dtype=np.int64) * sequence_length + (extra_token - 1)
        where = np.searchsorted(ends, wanted, side="right")
        rows[row : last + 1, 0] = begin + where
        rows[row : last + 1, 1] = wanted + (1 - extra_token) - (ends[where] - block[where])
        row = max(row, last + 1)


def plan_order(num_tokens: int, *, num_samples: int | None, sequence_length: int, extra_token: int) -> OrderPlan:
    """How many epochs and samples an order of `num_tokens` tokens an epoch has, to hold `num_samples` at least."""
    if num_tokens == 0:
        return OrderPlan(num_epochs=0, num_samples=0, num_samples_before_last_epoch=None)
    num_epochs = 1
    if num_samples is not None:
        num_epochs = max(1, -(-(num_samples * sequence_length + extra_token) // num_tokens))

    def samples_in(tokens: int) -> int:
        return max(0, (tokens - extra_token) // sequence_length)

    total = samples_in(num_epochs * num_tokens)
    if num_samples is None or num_epochs == 1:
        return OrderPlan(num_epochs=num_epochs, num_samples=total, num_samples_before_last_epoch=None)
    before_last = samples_in((num_epochs - 1) * num_tokens)
    is_separate = num_samples - before_last < int(_SEPARATE_BELOW * samples_in(num_tokens))
    return OrderPlan(
        num_epochs=num_epochs, num_samples=total, num_samples_before_last_epoch=before_last if is_separate else None
    )


def _document_index(
    sequences: range, num_epochs: int, is_last_separate: bool, random: np.random.RandomState
) -> NDArray[Any]:
    dtype = np.int32 if sequences.stop <= _LARGEST_INT32 else np.int64
    # Block by block: arange and tile would hold the ids of an epoch once more.
    index = np.empty(len(sequences) * num_epochs, dtype)
    for epoch in index.reshape(num_epochs, len(sequences)):
        for start in range(0, len(sequences), _BLOCK):
            block = sequences[start : start + _BLOCK]
            epoch[start : start + _BLOCK] = np.arange(block.start, block.stop, dtype=dtype)
    if not is_last_separate:
        shuffle(random, index)
        return index
    first = len(sequences) * (num_epochs - 1)
    shuffle(random, index[:first])
    shuffle(random, index[first:])
    return index


def _shuffle_index(num_samples: int, num_before: int | None, random: np.random.RandomState) -> NDArray[Any]:
    dtype = np.uint32 if num_samples < _LARGEST_UINT32 - 1 else np.int64
    index = np.arange(num_samples, dtype=dtype)
    if num_before is None:
        shuffle(random, index)
        return index
    shuffle(random, index[:num_before])
    shuffle(random, index[num_before:])
    return index
