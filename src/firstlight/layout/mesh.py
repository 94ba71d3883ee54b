"""Axis degrees to rank coordinates. Pure arithmetic; the runtime builds its device mesh from it."""

from dataclasses import dataclass

from firstlight.config.training import ParallelismConfig

AXES = ("dp_replicate", "dp_shard")
"""Mesh axes, the slowest first: neighbouring ranks share a shard group, which talks most."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the ranks of a run are arranged."""

    dp_replicate: int
    dp_shard: int

    @classmethod
    def of(cls, parallelism: ParallelismConfig, world_size: int) -> "Layout":
        """The layout on `world_size` ranks; -1 takes what is left. The configuration's rules hold."""
        replicate, shard = parallelism.data_parallel_replicate, parallelism.data_parallel_shard
        return cls(dp_replicate=replicate, dp_shard=world_size // replicate if shard == -1 else shard)

    @property
    def world_size(self) -> int:
        return self.dp_replicate * self.dp_shard

    @property
    def data_size(self) -> int:
        """Ranks that read different samples."""
        return self.dp_replicate * self.dp_shard

    def data_rank(self, rank: int) -> int:
        """Which of the `data_size` portions of a batch rank `rank` reads."""
        return rank

    def describe(self) -> str:
        """One line for the log."""
        return f"{self.world_size} rank(s): data_parallel_replicate {self.dp_replicate} x shard {self.dp_shard}"
