"""Axis degrees to rank coordinates. Pure arithmetic; the runtime builds its device meshes from it.

Four meshes lie over the same ranks. RANK_AXES say which samples, positions and layers a rank computes. Parameters lie
on PARAMETER_AXES: the ranks of a context group shard them as those of data parallelism do. The routed experts lie on
EXPERT_AXES: within a stage, the ranks that shard data, context and tensors are cut anew, into groups of neighbours that
hold different experts, or different parts of their matrices. CONTEXT_AXES say how the ranks of a context group cut
attention.
"""

import math
from dataclasses import dataclass

from firstlight.config.context import head_degree
from firstlight.config.training import ParallelismConfig, Sharded

RANK_AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
"""The slowest first: the ranks of a tensor group talk most and are neighbours, so they share a node."""

PARAMETER_AXES = ("pp", "dp_replicate", "shard", "tp")
"""Of all but the routed experts: `shard` is dp_shard x cp."""

EXPERT_AXES = ("pp", "dp_replicate", "edp", "ep", "etp")
"""Of the routed experts: `ep` ranks hold different ones, `etp` ranks have each a part of the matrices of the same ones,
`edp` ranks shard what is alike."""

CONTEXT_AXES = ("others", "ring", "heads", "tp")
"""Within the context groups: the ring and the ranks that deal out heads; `others` are all slower axes."""

_SHOWN_AS = {
    "pp": "pipeline_parallel",
    "dp_replicate": "data_parallel_replicate",
    "dp_shard": "data_parallel_shard",
    "cp": "context_parallel",
    "tp": "tensor_parallel",
    "ep": "expert_parallel",
    "etp": "expert_tensor_parallel",
    "edp": "shards of an expert",
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the ranks of a run are arranged."""

    dp_replicate: int = 1
    dp_shard: int = 1
    tp: int = 1
    ep: int = 1
    etp: int = 1
    pp: int = 1
    cp: int = 1
    sharded: Sharded = "all"
    cp_heads: int = 1
    """The ranks of a context group that exchange positions for heads are neighbours: so many of its cp."""

    @classmethod
    def of(cls, parallelism: ParallelismConfig, world_size: int) -> "Layout":
        """The layout on `world_size` ranks; -1 takes what is left. The configuration's rules hold."""
        shard = parallelism.data_parallel_shard
        return cls(
            dp_replicate=parallelism.data_parallel_replicate,
            dp_shard=world_size // parallelism.fixed_size if shard == -1 else shard,
            tp=parallelism.tensor_parallel,
            ep=parallelism.expert_parallel,
            etp=parallelism.expert_tensor_parallel,
            pp=parallelism.pipeline_parallel,
            cp=parallelism.context_parallel,
            sharded=parallelism.sharded,
            cp_heads=head_degree(parallelism.context, parallelism.context_parallel),
        )

    @property
    def rank_shape(self) -> tuple[int, ...]:
        """The degrees of RANK_AXES."""
        return self.pp, self.dp_replicate, self.dp_shard, self.cp, self.tp

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The degrees of PARAMETER_AXES."""
        return self.pp, self.dp_replicate, self.dp_shard * self.cp, self.tp

    @property
    def expert_shape(self) -> tuple[int, ...]:
        """The degrees of EXPERT_AXES."""
        shards = self.expert_ranks // (self.ep * self.etp)
        return self.pp, self.dp_replicate, shards, self.ep, self.etp

    @property
    def expert_ranks(self) -> int:
        """Ranks of a stage and replica, out of which the groups of experts are cut."""
        return self.dp_shard * self.cp * self.tp

    @property
    def context_shape(self) -> tuple[int, ...]:
        """The degrees of CONTEXT_AXES."""
        return self.pp * self.data_size, self.cp_ring, self.cp_heads, self.tp

    @property
    def cp_ring(self) -> int:
        """The size of the rings in which keys and values travel."""
        return self.cp // self.cp_heads

    @property
    def world_size(self) -> int:
        return math.prod(self.rank_shape)

    @property
    def stage_size(self) -> int:
        """Ranks that hold a stage of the pipeline together."""
        return self.world_size // self.pp

    @property
    def data_size(self) -> int:
        """Groups of ranks that read different samples."""
        return self.dp_replicate * self.dp_shard

    @property
    def readers(self) -> int:
        """Ranks that read the same samples."""
        return self.pp * self.cp * self.tp

    def data_rank(self, rank: int) -> int:
        """Which of the `data_size` portions of a batch rank `rank` reads."""
        return rank % self.stage_size // (self.cp * self.tp)

    def is_first_of_stage(self, rank: int) -> bool:
        """Whether `rank` is the first of those that hold a stage together."""
        return rank % self.stage_size == 0

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where `rank` is on each axis of the meshes."""
        return {
            axis: place
            for axes, shape in self._meshes()
            for axis, place in zip(axes, _unravelled(rank, shape), strict=True)
        }

    def degrees(self) -> dict[str, int]:
        """The degree of each axis of the meshes."""
        return {axis: degree for axes, shape in self._meshes() for axis, degree in zip(axes, shape, strict=True)}

    def describe(self) -> str:
        """A table for the log: each axis, its degree, and the ranks of the first rank's group on it."""
        degrees = {axis: degree for axis, degree in self.degrees().items() if degree > 1 and axis in _SHOWN_AS}
        lines = [f"{self.world_size} rank(s)" + (", by axis:" if degrees else "")]
        for axis, degree in degrees.items():
            lines.append(f"  {_SHOWN_AS[axis]:<24}{degree:>6}   {_shown(self.group(axis, 0))}")
        return "\n".join(lines)

    def group(self, axis: str, rank: int) -> range:
        """The ranks that differ from `rank` on `axis` alone, itself among them."""
        axes, shape = next(mesh for mesh in self._meshes() if axis in mesh[0])
        place = axes.index(axis)
        stride = math.prod(shape[place + 1 :])
        first = rank - _unravelled(rank, shape)[place] * stride
        return range(first, first + shape[place] * stride, stride)

    def _meshes(self) -> tuple[tuple[tuple[str, ...], tuple[int, ...]], ...]:
        return (
            (RANK_AXES, self.rank_shape),
            (PARAMETER_AXES, self.parameter_shape),
            (EXPERT_AXES, self.expert_shape),
            (CONTEXT_AXES, self.context_shape),
        )


def _unravelled(rank: int, shape: tuple[int, ...]) -> list[int]:
    """Coordinates of `rank`, the last axis the fastest."""
    out: list[int] = []
    for degree in reversed(shape):
        rank, place = divmod(rank, degree)
        out.insert(0, place)
    return out


def _shown(group: range) -> str:
    if len(group) <= 4:
        return "ranks " + ", ".join(map(str, group))
    return f"ranks {group[0]}, {group[1]}, {group[2]} ... {group[-1]}"
