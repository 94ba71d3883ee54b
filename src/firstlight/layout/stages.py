"""Which layers each stage of a pipeline has, and which stages each rank. Pure arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from firstlight.config.model import ModelConfig
from firstlight.config.pipeline import V_SHAPED, BalancedSplit, GivenSplit, OffsetSplit, PipelineConfig
from firstlight.layout.counts import flops_by_part


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Consecutive decoder layers. The first stage also has the embedding; the last one the final norm, the head and
    the layers of multi-token prediction."""

    index: int = 0
    count: int = 1
    layers: range

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_last(self) -> bool:
        return self.index == self.count - 1


def whole_model(model: ModelConfig) -> Stage:
    """What a rank has without a pipeline."""
    return Stage(layers=range(model.num_hidden_layers))


def stages_of(model: ModelConfig, pipeline: PipelineConfig, degree: int, sequence_length: int) -> list[Stage]:
    """The stages of the whole pipeline over `degree` ranks. The configuration's rules hold."""
    if degree == 1:
        return [whole_model(model)]
    sizes = layers_of_stages(model, pipeline, degree, sequence_length)
    bounds = pairwise(accumulate(sizes, initial=0))
    return [Stage(index=index, count=len(sizes), layers=range(begin, end)) for index, (begin, end) in enumerate(bounds)]


def layers_of_stages(model: ModelConfig, pipeline: PipelineConfig, degree: int, sequence_length: int) -> list[int]:
    """How many decoder layers each stage has."""
    count = degree * pipeline.num_stages_per_rank
    match pipeline.split:
        case GivenSplit(layers=layers):
            return list(layers)
        case OffsetSplit(offsets=offsets):
            return [model.num_hidden_layers // count + offset for offset in offsets]
        case BalancedSplit():
            parts = flops_by_part(model, sequence_length)
            return balanced(parts.layers, count, after=parts.head)


def stages_on(rank: int, degree: int, pipeline: PipelineConfig) -> list[int]:
    """The indices of the stages that place `rank` of the pipeline has, in ascending order."""
    per_rank = pipeline.num_stages_per_rank if degree > 1 else 1
    if pipeline.schedule in V_SHAPED and degree > 1:
        return [rank, 2 * degree - 1 - rank]
    return [rank + turn * degree for turn in range(per_rank)]


def balanced(costs: Sequence[float], count: int, *, after: float) -> list[int]:
    """Lengths of `count` consecutive runs of `costs` whose dearest is as cheap as can be.

    `after` is added to the last run, which may be empty for it. Of equally good splits the one with the longest first
    runs.
    """
    total = [0.0, *accumulate(costs)]
    size = len(costs)
    # best[k][i]: the dearest of k runs over the first i costs; cut[k][i]: where the last of them begins.
    best = [[math.inf] * (size + 1) for _ in range(count + 1)]
    cut = [[0] * (size + 1) for _ in range(count + 1)]
    best[0][0] = 0.0
    for runs in range(1, count + 1):
        extra = after if runs == count else 0.0
        fewest = 0 if extra else 1
        for end in range(runs - 1 + fewest, size + 1):
            for begin in range(runs - 1, end - fewest + 1):
                dearest = max(best[runs - 1][begin], total[end] - total[begin] + extra)
                if dearest <= best[runs][end]:
                    best[runs][end], cut[runs][end] = dearest, begin
    sizes: list[int] = []
    end = size
    for runs in range(count, 0, -1):
        sizes.insert(0, end - cut[runs][end])
        end = cut[runs][end]
    return sizes
