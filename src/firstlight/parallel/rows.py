"""This rank's rows of a global batch, on the device, and their micro-batches.

Shapes: r rows of this rank, s sequence.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor


class HostBatch(Protocol):
    """This rank's rows as the data room gives them: tokens and labels int32 [r, s], loss_mask float32 [r, s]."""

    @property
    def tokens(self) -> NDArray[Any]: ...

    @property
    def labels(self) -> NDArray[Any]: ...

    @property
    def loss_mask(self) -> NDArray[Any]: ...

    @property
    def num_micro_batches(self) -> int | None:
        """Of the rank that has most of them, where not all have as many."""

    @property
    def phase(self) -> int:
        """Of the run, from 0."""

    @property
    def begins(self) -> NDArray[Any] | None:
        """Where documents begin, bool [r, s], when they stand for themselves."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The same rows on the device, tokens and labels as int64."""

    tokens: Tensor
    labels: Tensor
    mask: Tensor
    begins: Tensor | None

    @classmethod
    def of(cls, batch: HostBatch, device: torch.device) -> "Rows":
        """Copy to `device`."""
        tokens, labels, mask = (
            torch.from_numpy(array).to(device, non_blocking=True)
            for array in (batch.tokens, batch.labels, batch.loss_mask)
        )
        begins = None if batch.begins is None else torch.from_numpy(batch.begins).to(device, non_blocking=True)
        return cls(tokens=tokens.long(), labels=labels.long(), mask=mask, begins=begins)

    def filler(self) -> "Rows":
        """One row of which nothing counts, for a rank that has to keep step with one that has more."""
        shape = (1, self.tokens.shape[1])
        return Rows(
            tokens=self.tokens.new_zeros(shape),
            labels=self.labels.new_zeros(shape),
            mask=self.mask.new_zeros(shape),
            begins=None if self.begins is None else self.begins.new_zeros(shape),
        )

    def micro_batches(self, size: int) -> list["Rows"]:
        """Consecutive groups of `size` rows, the last one perhaps of fewer."""
        if not len(self.tokens):
            return []
        tokens, labels, masks = self.tokens.split(size), self.labels.split(size), self.mask.split(size)
        begins = [None] * len(tokens) if self.begins is None else self.begins.split(size)
        return [
            Rows(tokens=one, labels=label, mask=mask, begins=begin)
            for one, label, mask, begin in zip(tokens, labels, masks, begins, strict=True)
        ]
