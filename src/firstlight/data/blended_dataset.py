"""Several data sets mixed by weights, which may change at given samples: a curriculum."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError
from firstlight.data.blend import BlendOrder
from firstlight.data.samples import Dataset, Samples, position_of, require_numbers, send_to


class BlendedDataset:
    """Blends one after the other over the same data sets; each goes on in every source where the last one stopped."""

    def __init__(self, datasets: Sequence[Dataset], stages: Sequence[BlendOrder]) -> None:
        """Raises InputError when a data set is shorter than the stages may need it to be."""
        for order in stages:
            if len(datasets) != len(order.weights):
                raise ValueError(f"{len(datasets)} data sets and {len(order.weights)} weights")
        self.datasets = tuple(datasets)
        self.sequence_length = datasets[0].sequence_length
        self._stages = tuple(stages)
        self._ends = np.cumsum([order.size for order in stages])
        self._bases = {0: np.zeros(len(datasets), np.int64)}
        """Samples taken from each source before a stage, by stage: those that were read up to, or told of."""
        needed = np.sum([order.most_samples() for order in stages], axis=0)
        for number, dataset in enumerate(datasets):
            if len(dataset) < needed[number]:
                raise InputError(
                    f"source {number} of the blend has {len(dataset)} samples, but its share of {len(self)} samples "
                    f"is {needed[number]}; build more epochs of it"
                )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """Write sample `numbers[i]` into row `rows[i]`, as its source does. Raises IndexError."""
        sources, places = self.locate(numbers)
        for source in np.unique(sources).tolist():
            here = sources == source
            self.datasets[source].read(places[here], out, rows[here])

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """(source, number among that source's samples) of each of `numbers` [n]. Raises IndexError."""
        require_numbers(numbers, len(self), "the blend")
        sources, places = np.empty(len(numbers), np.int16), np.empty(len(numbers), np.int64)
        stages = np.searchsorted(self._ends, numbers, side="right")
        for stage in np.unique(stages).tolist():
            here = stages == stage
            sources[here], within = self._stages[stage].locate(numbers[here] - self._first(stage))
            places[here] = within + self._base(stage)[sources[here]]
        return sources, places

    def counts_before(self, number: int) -> NDArray[np.int64]:
        """How many samples each source has given before sample `number`, int64 [D]; `number` may be the size."""
        stage = self._stage(number)
        return self._base(stage) + self._stages[stage].counts_before(number - self._first(stage))

    def position(self, number: int) -> dict[str, Any]:
        """What to go on from at sample `number`, without replaying all that was read before."""
        stage = self._stage(number)
        first, counts = self._stages[stage].start_of_block(number - self._first(stage))
        consumed = self.counts_before(number).tolist()
        return {
            "consumed_by_source": consumed,
            "sources": [position_of(one, count) for one, count in zip(self.datasets, consumed, strict=True)],
            "stage": stage,
            "before_stage": self._base(stage).tolist(),
            "block_start": first,
            "before_block": counts.tolist(),
        }

    def go_to(self, number: int, position: Mapping[str, Any]) -> None:
        """Take what `position` gave for sample `number`. Raises InputError when it is not of this blend."""
        stage = int(position["stage"])
        base = np.array(position["before_stage"], np.int64)
        if not 0 <= stage < len(self._stages) or len(base) != len(self.datasets) or base.sum() != self._first(stage):
            raise InputError(
                f"the saved position of the blend, stage {stage} after {base.tolist()}, is not of this one"
            )
        self._bases[stage] = base
        self._stages[stage].remember(int(position["block_start"]), np.array(position["before_block"], np.int64))
        consumed = self.counts_before(number).tolist()
        if consumed != position["consumed_by_source"]:
            raise InputError(
                f"sample {number} of the blend comes after {consumed} samples of the sources, but the saved position "
                f"after {position['consumed_by_source']}: it is of other sources or weights"
            )
        for dataset, count, saved in zip(self.datasets, consumed, position["sources"], strict=True):
            send_to(dataset, count, saved)

    def _stage(self, number: int) -> int:
        return min(int(np.searchsorted(self._ends, number, side="right")), len(self._stages) - 1)

    def _first(self, stage: int) -> int:
        return int(self._ends[stage - 1]) if stage else 0

    def _base(self, stage: int) -> NDArray[np.int64]:
        for before in range(max(known for known in self._bases if known <= stage), stage):
            order = self._stages[before]
            self._bases[before + 1] = self._bases[before] + order.counts_before(order.size)
        return self._bases[stage]
