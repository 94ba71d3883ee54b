"""The endless question of training, answered: which samples come next, on this rank."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.config.timeline import Stretch, Timeline
from firstlight.data.avoided import Avoided
from firstlight.data.phased_dataset import Phased
from firstlight.data.reader import Reader, Request, ThreadReader
from firstlight.data.samples import Dataset, Samples
from firstlight.layout.batch import accumulation_steps


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """This rank's rows of one global batch; a micro-batch is `micro_batch_size` consecutive rows.

    tokens, labels int32 [n, L] (labels are the tokens one place later; both are views of one array), loss_mask float32
    [n, L] (0: not trained on), begins bool [n, L] (a document begins here; None where documents are joined), samples:
    the size of the global batch. num_micro_batches: of the rank that has most (None: all have those of their rows).
    phase: of the run, from 0.
    """

    tokens: NDArray[np.int32]
    labels: NDArray[np.int32]
    loss_mask: NDArray[np.float32]
    begins: NDArray[np.bool_] | None
    samples: int
    num_micro_batches: int | None = None
    phase: int = 0

    @classmethod
    def of(cls, samples: Samples, masking: "Masking", of_run: "OfRun") -> "Batch":
        """The rows of `samples` with what is trained on of them."""
        tokens, labels = samples.tokens[:, :-1], samples.tokens[:, 1:]
        # By position: padding may look like a legal id.
        is_real = np.arange(1, labels.shape[1] + 1) < samples.num_real[:, None]
        loss_mask = is_real.astype(np.float32)
        if masking.end_of_document is not None:
            loss_mask[tokens == masking.end_of_document] = 0
        if masking.separates_documents:
            loss_mask[samples.begins[:, 1:]] = 0
        return cls(
            tokens=tokens,
            labels=labels,
            loss_mask=loss_mask,
            begins=samples.begins[:, :-1] if masking.separates_documents else None,
            samples=of_run.samples,
            num_micro_batches=of_run.num_micro_batches,
            phase=of_run.phase,
        )


@dataclass(frozen=True, kw_only=True)
class OfRun:
    """What a rank's rows are part of, see `Batch`."""

    samples: int
    num_micro_batches: int | None = None
    phase: int = 0


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What is left out of the loss: what follows the token `end_of_document`; documents' first tokens.

    `separates_documents`: documents of a row do not see each other, so their first tokens cannot be predicted.
    """

    end_of_document: int | None = None
    separates_documents: bool = False


JOINED = Masking()


class TokenStream:
    """Global batches in the order of a data set; the position is the number of samples that all ranks consumed.

    As in Megatron's sequential sampler, of each `micro_batch_size * data_size` consecutive samples the ranks take
    one slice of `micro_batch_size` each. So the position means the same on any number of ranks. Where a batch does not
    fill these slices, the last ranks have one slice less, and the last slice is short: the batch is what the timeline
    says, whatever the number of ranks.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        timeline: Timeline,
        micro_batch_size: int,
        data_rank: int,
        data_size: int,
        masking: Masking = JOINED,
        reader: Reader | None = None,
        avoided: Iterable[Sequence[int]] = (),
    ) -> None:
        """`timeline` says how large the batches are. `reader` reads `dataset`; without one it is read when a batch is
        asked for. `avoided`: (first, end) of numbers of samples that are left out from the beginning.
        """
        if not 0 <= data_rank < data_size:
            raise ValueError(f"data rank {data_rank} is not one of {data_size}")
        self._num_samples = len(dataset)
        self._reader = reader or ThreadReader(dataset, 0)
        self._dataset = dataset
        self._timeline = timeline
        self._micro_batch_size, self._data_rank, self._data_size = micro_batch_size, data_rank, data_size
        self._masking = masking
        self._consumed_samples = 0
        self._last_start = 0
        """The position before the batch that came last."""
        self._num_asked = 0
        """Batches asked of the reader from the position on."""
        self._asked_samples = 0
        """The position behind them."""
        self._avoided = Avoided(avoided)
        self._position: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """This rank's part of the next global batch. Raises FirstlightError when the data does not hold another one."""
        start = self._consumed_samples
        size = self._size_at(start)
        if not self._holds_batch(start):
            raise FirstlightError(
                f"the training data is exhausted: {start} of its {self._num_samples} samples are consumed, "
                f"too few are left for a global batch of {size}; train for fewer steps, "
                "or start a run whose training.steps covers what you need"
            )
        self._ask_ahead()
        reply = self._reader.take()
        self._num_asked -= 1
        self._last_start, self._consumed_samples = start, start + size
        self._position = reply.position
        self._ask_ahead()
        accumulation = accumulation_steps(
            global_batch_size=size, micro_batch_size=self._micro_batch_size, data_size=self._data_size
        )
        of_run = OfRun(samples=size, num_micro_batches=accumulation, phase=self._stretch_at(start).phase)
        return Batch.of(reply.samples, self._masking, of_run)

    def last_numbers(self) -> NDArray[np.int64]:
        """Of this rank's rows of the batch that came last, the numbers in the order of the data."""
        start = self._last_start
        return self._avoided.numbers(start + self._rows(self._size_at(start)), self._cut_at(start))

    @property
    def first_ahead(self) -> int:
        """No sample of this number or a later one is consumed."""
        return self._avoided.ahead(self._consumed_samples, self._cut_at(self._consumed_samples))

    def avoid(self, samples: range, reason: str) -> None:
        """Leave out these samples, by their numbers in the order of the data, none of which may be consumed yet.

        The position may then change to an earlier one, but a range that is left out stays so. See `avoided`.
        """
        ahead = self.first_ahead
        if samples.step != 1 or samples.start < ahead:
            raise ValueError(f"samples {samples} cannot be avoided: the next one is {ahead}")
        get_logger().warning(f"samples {samples.start} to {samples.stop - 1} are left out: {reason}")
        self._avoided = self._avoided.joined([(samples.start, samples.stop)])
        self._restart()

    def numbers_between(self, first: int, end: int) -> range:
        """The smallest range with all samples at the places from `first` up to `end`, which are in one cut or end one;
        an empty one when some of them came before."""
        cut, last = self._cut_at(first), min(end, self._cut_at(first).stop) - 1
        if last - cut.start >= self._avoided.num_left(cut):
            return range(0)
        return range(self._number(first), self._number(last) + 1)

    def refusal(self, state: Mapping[str, Any]) -> str | None:
        """Why a run that leaves out what this one does cannot go on from a saved position: it is one behind samples
        that were not left out then."""
        then, consumed = Avoided(state["avoided"]), state["consumed_samples"]
        ahead = then.ahead(consumed, self._cut_at(consumed))
        for first, end in self._avoided.ranges:
            if first < ahead and not then.covers(first, end):
                return f"it has seen the samples from {first} to {end - 1}, which this run leaves out"
        return None

    def state_dict(self) -> dict[str, Any]:
        """The position: samples consumed by all ranks together, those left out, and what the data set remembers."""
        return {
            "consumed_samples": self._consumed_samples,
            "avoided": [list(one) for one in self._avoided.ranges],
            "position": self._position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a position that `state_dict` gave, on any rank of any number of ranks."""
        consumed = state["consumed_samples"]
        if consumed < 0:
            raise FirstlightError(f"consumed_samples = {consumed} in the saved data position is not a count")
        self._consumed_samples = consumed
        self._avoided = self._avoided.joined(state.get("avoided", []))
        self._position = dict(state.get("position", {}))
        self._restart()

    def close(self) -> None:
        """End what reads in the background."""
        self._reader.close()

    def _restart(self) -> None:
        """Drop what was read ahead, and read on from the position."""
        self._reader.forget()
        self._num_asked, self._asked_samples = 0, self._consumed_samples
        if self._consumed_samples:
            self._reader.go_to(self._number(self._consumed_samples - 1) + 1, self._position)

    def _stretch_at(self, start: int) -> Stretch:
        return self._timeline.at(self._timeline.step_at_samples(start))

    def _size_at(self, start: int) -> int:
        """Of the global batch that begins behind `start` consumed samples."""
        return self._stretch_at(start).batch_size

    def _rows(self, size: int) -> NDArray[np.int64]:
        """This rank's rows of a global batch of so many."""
        return rows_of_rank(
            size, micro_batch_size=self._micro_batch_size, data_rank=self._data_rank, data_size=self._data_size
        )

    def _last(self, start: int) -> int:
        """The number of the last sample of the batch that begins behind `start` consumed ones."""
        return self._number(start + self._size_at(start) - 1)

    def _holds_batch(self, start: int) -> bool:
        """Whether what there is of a sequence length has another one."""
        return start < self._num_samples and start + self._size_at(start) <= self._cut_at(start).stop

    def _cut_at(self, place: int) -> range:
        """The samples among which the one at `place` is: those of its sequence length."""
        if not isinstance(self._dataset, Phased):
            return range(self._num_samples)
        return self._dataset.cut_at(min(place, self._num_samples - 1))

    def _number(self, place: int) -> int:
        return int(self._avoided.numbers(np.array([place], np.int64), self._cut_at(place))[0])

    def _ask_ahead(self) -> None:
        start = self._asked_samples
        while self._num_asked < self._reader.depth and self._holds_batch(start):
            size = self._size_at(start)
            numbers = self._avoided.numbers(start + self._rows(size), self._cut_at(start))
            self._reader.ask(Request(numbers=numbers, next_number=self._last(start) + 1))
            start += size
            self._num_asked += 1
        self._asked_samples = start


def rows_of_rank(size: int, *, micro_batch_size: int, data_rank: int, data_size: int) -> NDArray[np.int64]:
    """Which of the `size` samples of a global batch a data rank reads, by their places in it."""
    slices = np.arange(data_rank, -(-size // micro_batch_size), data_size)[:, None]
    rows = (slices * micro_batch_size + np.arange(micro_batch_size)).ravel()
    return rows[rows < size]
