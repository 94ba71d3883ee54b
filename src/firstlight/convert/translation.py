"""Tensors of one format as those of another, by way of our names: planned from shapes, then one entry at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.config.model import ModelConfig
from firstlight.convert.named_weights import NamedWeights
from firstlight.convert.safetensors_writer import PlannedTensor
from firstlight.convert.tensor_layout import to_theirs
from firstlight.models.family import family_of
from firstlight.models.names import Entry, NameTable

DTYPES: Mapping[str, torch.dtype | None] = {
    "keep": None,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""What weights can be written in, by the names that a user gives; None leaves them as they are."""

_ROUTER_BIAS = "router.bias"
"""Stays fp32 whatever the weights are: its steps are smaller than what bf16 tells apart."""


@dataclass(frozen=True, kw_only=True)
class PlannedEntry:
    """An entry of the other format's table, and what it becomes."""

    entry: Entry
    tensors: tuple[PlannedTensor, ...]

    @property
    def num_bytes(self) -> int:
        """The size of all its values."""
        return sum(tensor.num_bytes for tensor in self.tensors)


class Translation:
    """`weights` of a model under the names of `table`, in `dtype` or as they are.

    Raises InputError when they are not those of the model.
    """

    def __init__(
        self, model: ModelConfig, weights: NamedWeights, table: NameTable, dtype: torch.dtype | None = None
    ) -> None:
        self._weights = weights
        self._tensors = family_of(model).shapes(model)
        self._dtype = dtype
        self._held_of: Entry | None = None
        self._held: Mapping[str, Tensor] = {}
        weights.require_match(self._tensors)
        weights.require_equal_copies()
        copies = (Entry(ours=(ours,), theirs=(theirs,), layout="same") for theirs, ours in table.copies.items())
        self.entries = [self._planned(entry) for entry in (*table.entries(self._tensors), *copies)]

    def read(self, planned: PlannedEntry) -> Iterator[tuple[str, Tensor]]:
        """The tensors of an entry by the other format's names, with values."""
        ours = [self._ours(name).to(self._dtype_of(name)) for name in planned.entry.ours]
        theirs = to_theirs(planned.entry, ours)
        yield from ((tensor.name, values) for tensor, values in zip(planned.tensors, theirs, strict=True))

    def _ours(self, name: str) -> Tensor:
        """One of our tensors. The last entry that was read is held: the next tensor is often of it, too."""
        entry = self._weights.table.entry(name)
        if entry != self._held_of:
            self._held = {}
            self._held_of, self._held = entry, self._weights.read(entry, self._tensors)
        return self._held[name]

    def _planned(self, entry: Entry) -> PlannedEntry:
        dtypes = {self._dtype_of(name) for name in entry.ours}
        if len(dtypes) > 1:
            raise InputError(
                f"{', '.join(entry.ours)} become one tensor, but are {', '.join(map(str, dtypes))}; choose a dtype"
            )
        ours = [torch.empty(self._tensors[name].shape, device="meta") for name in entry.ours]
        shapes = [tuple(tensor.shape) for tensor in to_theirs(entry, ours)]
        tensors = [
            PlannedTensor(name=name, shape=shape, dtype=next(iter(dtypes)))
            for name, shape in zip(entry.theirs, shapes, strict=True)
        ]
        return PlannedEntry(entry=entry, tensors=tuple(tensors))

    def _dtype_of(self, ours: str) -> torch.dtype:
        if ours.endswith(_ROUTER_BIAS):
            return torch.float32
        if self._dtype is not None:
            return self._dtype
        source = self._weights.source
        stored = {source.tensors[name].dtype for name in self._weights.table.entry(ours).theirs}
        # 8-bit numbers are read with their scales, into fp32; so are experts that are not all of one type.
        return next(iter(stored)) if len(stored) == 1 and next(iter(stored)).itemsize > 1 else torch.float32
