"""Axis degrees to rank coordinates. Pure arithmetic; the runtime builds its device meshes from it.

Two meshes lie over the same ranks. Everything but the routed experts lives on the dense mesh. The experts live on the
expert mesh: it cuts the ranks that shard data and tensors anew, into groups of neighbours that hold different experts.
"""

from dataclasses import dataclass

from firstlight.config.training import ParallelismConfig, Sharded

DENSE_AXES = ("dp_replicate", "dp_shard", "tp")
"""Mesh axes, the slowest first: the ranks of a tensor group talk most and are neighbours, so they share a node."""

EXPERT_AXES = ("dp_replicate", "edp", "ep")
"""Of the routed experts: `ep` ranks hold different ones, `edp` ranks shard the same ones."""

_SHOWN_AS = {
    "dp_replicate": "data_parallel_replicate",
    "dp_shard": "data_parallel_shard",
    "tp": "tensor_parallel",
    "ep": "expert_parallel",
    "edp": "shards of an expert",
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the ranks of a run are arranged."""

    dp_replicate: int = 1
    dp_shard: int = 1
    tp: int = 1
    ep: int = 1
    sharded: Sharded = "all"

    @classmethod
    def of(cls, parallelism: ParallelismConfig, world_size: int) -> "Layout":
        """The layout on `world_size` ranks; -1 takes what is left. The configuration's rules hold."""
        replicate, shard = parallelism.data_parallel_replicate, parallelism.data_parallel_shard
        tensor = parallelism.tensor_parallel
        return cls(
            dp_replicate=replicate,
            dp_shard=world_size // (replicate * tensor) if shard == -1 else shard,
            tp=tensor,
            ep=parallelism.expert_parallel,
            sharded=parallelism.sharded,
        )

    @property
    def dense_shape(self) -> tuple[int, int, int]:
        """The degrees of DENSE_AXES."""
        return self.dp_replicate, self.dp_shard, self.tp

    @property
    def expert_shape(self) -> tuple[int, int, int]:
        """The degrees of EXPERT_AXES."""
        return self.dp_replicate, self.dp_shard * self.tp // self.ep, self.ep

    @property
    def world_size(self) -> int:
        return self.dp_replicate * self.dp_shard * self.tp

    @property
    def data_size(self) -> int:
        """Ranks, or tensor groups of ranks, that read different samples."""
        return self.dp_replicate * self.dp_shard

    def data_rank(self, rank: int) -> int:
        """Which of the `data_size` portions of a batch rank `rank` reads."""
        return rank // self.tp

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where `rank` is on each axis of both meshes."""
        dense = _unravelled(rank, self.dense_shape)
        experts = _unravelled(rank, self.expert_shape)
        return dict(zip(DENSE_AXES, dense, strict=True)) | dict(zip(EXPERT_AXES, experts, strict=True))

    def describe(self) -> str:
        """A table for the log: each axis, its degree, and the ranks of the first rank's group on it."""
        shapes = (*zip(DENSE_AXES, self.dense_shape, strict=True), *zip(EXPERT_AXES, self.expert_shape, strict=True))
        degrees = {axis: degree for axis, degree in shapes if degree > 1}
        lines = [f"{self.world_size} rank(s)" + (", by axis:" if degrees else "")]
        for axis, degree in degrees.items():
            lines.append(f"  {_SHOWN_AS[axis]:<24}{degree:>6}   {_shown(self.group_of_first_rank(axis))}")
        return "\n".join(lines)

    def group_of_first_rank(self, axis: str) -> range:
        """The ranks that differ from rank 0 on `axis` alone."""
        axes, shape = (DENSE_AXES, self.dense_shape) if axis in DENSE_AXES else (EXPERT_AXES, self.expert_shape)
        place = axes.index(axis)
        stride = 1
        for degree in shape[place + 1 :]:
            stride *= degree
        return range(0, shape[place] * stride, stride)


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
