"""The endless question of training, answered: which samples come next, on this rank."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import FirstlightError, InputError
from firstlight.data.gpt_dataset import Dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """This rank's rows of one global batch; a micro-batch is `micro_batch_size` consecutive rows.

    tokens, labels int64 [n, L] (labels are the tokens one place later), loss_mask float32 [n, L] (0: not trained on),
    samples: the size of the global batch.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    loss_mask: NDArray[np.float32]
    samples: int


class TokenStream:
    """Global batches in the order of a data set; the position is the number of samples that all ranks consumed.

    As in Megatron's sequential sampler, of each `micro_batch_size * data_size` consecutive samples the ranks take
    one slice of `micro_batch_size` each. So the position means the same on any number of ranks.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        data_rank: int,
        data_size: int,
        end_of_document: int | None,
    ) -> None:
        """With `end_of_document`, the prediction that follows this token is left out of the loss.

        Raises InputError when the global batch cannot be dealt out evenly.
        """
        chunk = micro_batch_size * data_size
        if global_batch_size <= 0 or global_batch_size % chunk:
            raise InputError(
                f"training.global_batch_size = {global_batch_size} is not a multiple of micro_batch_size * data ranks "
                f"= {micro_batch_size} * {data_size}; use for example {max(1, global_batch_size // chunk) * chunk}"
            )
        if not 0 <= data_rank < data_size:
            raise ValueError(f"data rank {data_rank} is not one of {data_size}")
        self._dataset = dataset
        self._global_batch_size = global_batch_size
        self._end_of_document = end_of_document
        chunks = np.arange(0, global_batch_size, chunk)[:, None]
        self._rows = (chunks + data_rank * micro_batch_size + np.arange(micro_batch_size)).ravel()
        self._consumed_samples = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """This rank's part of the next global batch. Raises FirstlightError when the data does not hold another one."""
        start = self._consumed_samples
        if start + self._global_batch_size > len(self._dataset):
            raise FirstlightError(
                f"the training data is exhausted: {start} of its {len(self._dataset)} samples are consumed, "
                f"too few are left for a global batch of {self._global_batch_size}; train for fewer steps, "
                "or start a run whose training.steps covers what you need"
            )
        batch = self._read(start)
        self._consumed_samples = start + self._global_batch_size
        return batch

    def state_dict(self) -> dict[str, int]:
        """The position: samples consumed by all ranks together."""
        return {"consumed_samples": self._consumed_samples}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a position that `state_dict` gave, on any rank of any number of ranks."""
        consumed = state["consumed_samples"]
        if consumed < 0:
            raise FirstlightError(f"consumed_samples = {consumed} in the saved data position is not a count")
        self._consumed_samples = consumed

    def _read(self, start: int) -> Batch:
        length = self._dataset.sequence_length
        tokens = np.empty((len(self._rows), length), np.int64)
        labels = np.empty_like(tokens)
        loss_mask = np.ones(tokens.shape, np.float32)
        sample = np.empty(length + 1, np.int64)
        for row, offset in enumerate(self._rows.tolist()):
            num_real = self._dataset.fill(start + offset, sample)
            tokens[row] = sample[:-1]
            labels[row] = sample[1:]
            loss_mask[row, num_real - 1 :] = 0  # by position: padding may look like a legal id
        if self._end_of_document is not None:
            loss_mask[tokens == self._end_of_document] = 0
        return Batch(tokens=tokens, labels=labels, loss_mask=loss_mask, samples=self._global_batch_size)
