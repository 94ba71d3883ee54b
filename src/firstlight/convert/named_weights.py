"""Another tool's tensors under our names: checked as a whole against a model, then read one entry at a time."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.checkpoint.shards import LocalShard, local_shard
from firstlight.convert.source import WeightSource
from firstlight.convert.tensor_layout import to_ours, to_theirs
from firstlight.models.names import Entry, NameTable

_MOST_NAMED = 12
_WEIGHT_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
}


@dataclass(frozen=True, kw_only=True)
class NamedWeights:
    """A source and what its tensors are called; `others` are tensors of it that are known not to be weights."""

    source: WeightSource
    table: NameTable
    others: Collection[str] = field(default_factory=frozenset)

    def require_match(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise InputError that names what is missing, of another shape or dtype, or not of a model with `tensors`.

        `tensors` are by our names, on any device; none of theirs is read.
        """
        faults = []
        known = {*self.table.copies, *self.others}
        for entry in self.table.entries(tensors):
            known.update(entry.theirs)
            faults += self._faults(entry, tensors)
        faults += [f"{name} is not of this model" for name in self.source.tensors if name not in known]
        if faults:
            shown = "\n".join(f"  {fault}" for fault in faults[:_MOST_NAMED])
            more = f"\n  and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
            raise InputError(f"the weights in {self.source.place} do not fit the model:\n{shown}{more}")

    def require_equal_copies(self) -> None:
        """Raise InputError when a tensor that is there a second time differs from the first."""
        for theirs, ours in self.table.copies.items():
            original = self.table.entry(ours).theirs[0]
            if theirs in self.source.tensors and not torch.equal(self.source.read(theirs), self.source.read(original)):
                raise InputError(
                    f"{self.source.place}: {theirs} is a copy of {original} in this model, but differs from it"
                )

    def read(self, entry: Entry, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of ours that an entry holds, in the source's data types; `tensors` say their shapes."""
        theirs = [self.source.read(name) for name in entry.theirs]
        shapes = [tensors[name].shape for name in entry.ours]
        return dict(zip(entry.ours, to_ours(entry, theirs, shapes), strict=True))

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill `tensors`, plain or sharded, each rank what it holds of them; entry by entry."""
        for entry in self.table.entries(tensors):
            shards = {name: local_shard(tensors[name], is_first_rank=False) for name in entry.ours}
            if entry.layout == "per_expert":
                self._fill_experts(entry, *shards.values())
                continue
            for name, whole in self.read(entry, tensors).items():
                shards[name].data.copy_(whole[_part(shards[name].offset, shards[name].data.shape)])

    def _fill_experts(self, entry: Entry, shard: LocalShard) -> None:
        first, rest = shard.offset[0], _part(shard.offset[1:], shard.data.shape[1:])
        for index in range(shard.data.shape[0]):
            shard.data[index].copy_(self.source.read(entry.theirs[first + index])[rest])

    def _faults(self, entry: Entry, tensors: Mapping[str, Tensor]) -> list[str]:
        ours = [torch.empty(tensors[name].shape, device="meta") for name in entry.ours]
        faults = []
        for name, expected in zip(entry.theirs, to_theirs(entry, ours), strict=True):
            stored = self.source.tensors.get(name)
            if stored is None:
                faults.append(f"{name} is missing")
            elif stored.shape != tuple(expected.shape):
                faults.append(f"{name} has shape {list(stored.shape)}, this model's has {list(expected.shape)}")
            elif stored.dtype not in _WEIGHT_DTYPES:
                faults.append(f"{name} is {stored.dtype}; known are {', '.join(_WEIGHT_DTYPES.values())}")
        return faults


def _part(offset: tuple[int, ...], shape: torch.Size) -> tuple[slice, ...]:
    return tuple(slice(at, at + size) for at, size in zip(offset, shape, strict=True))
