"""The files that a conversion's entries go to."""

from collections.abc import Sequence
from dataclasses import dataclass

from firstlight.convert.safetensors_writer import PlannedTensor
from firstlight.convert.translation import PlannedEntry


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """A file and what will be in it."""

    name: str
    entries: Sequence[PlannedEntry]

    @property
    def tensors(self) -> list[PlannedTensor]:
        """The tensors, in the order in which they are written."""
        return [tensor for entry in self.entries for tensor in entry.tensors]

    @property
    def num_bytes(self) -> int:
        """The size of their values."""
        return sum(entry.num_bytes for entry in self.entries)


def planned_files(entries: Sequence[PlannedEntry], suffix: str, shard_bytes: int | None) -> list[PlannedFile]:
    """The entries in their order, in one file, or in as many as keep to `shard_bytes`; an entry is never divided."""
    groups: list[list[PlannedEntry]] = [[]]
    size = 0
    for entry in entries:
        if groups[-1] and shard_bytes is not None and size + entry.num_bytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.num_bytes
    if len(groups) == 1:
        return [PlannedFile(name=f"model{suffix}", entries=groups[0])]
    return [
        PlannedFile(name=f"model-{number:05d}-of-{len(groups):05d}{suffix}", entries=group)
        for number, group in enumerate(groups, start=1)
    ]
