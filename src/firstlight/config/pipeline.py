"""The pipeline's section: in which order stages work, and which layers each of them has."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from firstlight.config.section import Count, Section

ScheduleName = Literal[
    "gpipe", "1f1b", "interleaved_1f1b", "looped_bfs", "interleaved_zero_bubble", "zbv_zero_bubble", "dualpipe_v"
]

STAGES_PER_RANK: Mapping[ScheduleName, tuple[int, int | None]] = {
    "gpipe": (1, 1),
    "1f1b": (1, 1),
    "interleaved_1f1b": (2, None),
    "looped_bfs": (2, None),
    "interleaved_zero_bubble": (2, None),
    "zbv_zero_bubble": (2, 2),
    "dualpipe_v": (2, 2),
}
"""The fewest, which is the default, and the most stages of a rank; None: any number."""

V_SHAPED: frozenset[ScheduleName] = frozenset({"zbv_zero_bubble", "dualpipe_v"})
"""Schedules in which stages go from the first rank to the last and back: embedding and head are on one rank."""

SPLITS_BACKWARD: frozenset[ScheduleName] = frozenset({"interleaved_zero_bubble", "zbv_zero_bubble", "dualpipe_v"})
"""Schedules that compute gradients of weights apart from those of activations, to fill the bubble."""


class BalancedSplit(Section):
    """Layers are dealt out so that the most expensive stage is as cheap as can be: FLOPs of layers, of the head and of
    multi-token prediction."""

    kind: Literal["balanced"] = "balanced"


class GivenSplit(Section):
    """Decoder layers of each stage, the first stage first."""

    kind: Literal["layers"] = "layers"
    layers: tuple[Annotated[int, Field(ge=0)], ...]


class OffsetSplit(Section):
    """Layers of each stage more or less than the mean, rounded down; as MindFormers' `offset`."""

    kind: Literal["offsets"] = "offsets"
    offsets: tuple[int, ...]


Split = Annotated[BalancedSplit | GivenSplit | OffsetSplit, Field(discriminator="kind")]


class PipelineConfig(Section):
    """How a pipeline works, where pipeline_parallel is more than 1."""

    schedule: ScheduleName = "1f1b"
    """In which order a rank takes micro-batches forward and backward through its stages."""
    stages_per_rank: Count | None = None
    """null: the fewest that the schedule has, 1 or 2."""
    split: Split = BalancedSplit()

    @property
    def num_stages_per_rank(self) -> int:
        """As configured, or as the schedule has it."""
        return self.stages_per_rank or STAGES_PER_RANK[self.schedule][0]
