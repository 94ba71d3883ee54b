"""How the phases of a run cut its sources: consecutive phases of one sequence length are a cut.

Each source's tokens are shared out among the cuts that read it, in proportion to what each takes, so that within every
share a token is read as often as the run reads the whole source.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.log import get_logger
from firstlight.data.blend import sizes_to_build, target_sizes


@dataclass(frozen=True, kw_only=True)
class PhaseNeeds:
    """What a phase takes: so many samples of so many tokens, by weights that may be the sources' own (None)."""

    num_samples: int
    sequence_length: int
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Share:
    """A part of a source's tokens, from and to shares of them; 0 to 1 is all."""

    begin: float = 0.0
    end: float = 1.0

    @property
    def is_whole(self) -> bool:
        return self.begin <= 0 and self.end >= 1

    def of(self, sequences: range, starts: NDArray[Any], end: int, *, at_least: int) -> range:
        """The ids among `sequences` that are in the share: each is in that where it starts.

        `starts` ascend, one for each id of the file, and the last of `sequences` ends at `end`, all in one unit. A
        share of less than `at_least` takes its neighbours too, those before it first.
        """
        if self.is_whole or not len(sequences):
            return sequences

        def begin_of(place: int) -> int:
            return end if place == sequences.stop else int(starts[place])

        size, origin = end - begin_of(sequences.start), begin_of(sequences.start)
        edges = (origin + edge * size for edge in (self.begin, self.end))
        # Not numpy's search: an array may lie unaligned in a file, and numpy would copy all of it first.
        first, last = (bisect_left(starts, edge, sequences.start, sequences.stop) for edge in edges)
        own = range(first, last)
        while first > sequences.start and begin_of(last) - begin_of(first) < at_least:
            first -= 1
        while last < sequences.stop and begin_of(last) - begin_of(first) < at_least:
            last += 1
        if len(own) < last - first:
            get_logger().warning(
                f"a share of {self.end - self.begin:.2%} of a source has too few tokens for one sample: it also reads "
                f"{last - first - len(own)} documents of its neighbours"
            )
        return range(first, last)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """Consecutive phases of one sequence length: samples and normalised weights of each."""

    sequence_length: int
    sizes: Sequence[int]
    weights: Sequence[NDArray[np.float64]]

    @property
    def num_samples(self) -> int:
        return sum(self.sizes)

    def asked(self) -> list[int]:
        """Samples to build of each source, as many more as Megatron asks for."""
        by_phase = [sizes_to_build(one, size) for one, size in zip(self.weights, self.sizes, strict=True)]
        return [sum(one) for one in zip(*by_phase, strict=True)]

    def targets(self) -> list[int]:
        """Samples that each source gives at most."""
        by_phase = [target_sizes(one, size) for one, size in zip(self.weights, self.sizes, strict=True)]
        return [sum(one) for one in zip(*by_phase, strict=True)]

    def tokens(self) -> list[int]:
        """Of each source."""
        return [samples * self.sequence_length for samples in self.targets()]


def cuts_of(phases: Sequence[PhaseNeeds], weights: Sequence[NDArray[np.float64]]) -> list[Cut]:
    """The cuts of a run; `weights` of each phase, normalised."""
    cuts: list[Cut] = []
    for phase, one in zip(phases, weights, strict=True):
        if cuts and cuts[-1].sequence_length == phase.sequence_length:
            last = cuts.pop()
            cuts.append(
                Cut(
                    sequence_length=phase.sequence_length,
                    sizes=[*last.sizes, phase.num_samples],
                    weights=[*last.weights, one],
                )
            )
        else:
            cuts.append(Cut(sequence_length=phase.sequence_length, sizes=[phase.num_samples], weights=[one]))
    return cuts


def shares_of(cuts: Sequence[Cut]) -> list[list[Share]]:
    """For each cut, the share of each source that it reads."""
    tokens = np.array([cut.tokens() for cut in cuts])
    by_source = []
    for taken in tokens.T.tolist():
        total = sum(taken)
        edges = [part / total if total else 0.0 for part in accumulate(taken, initial=0)]
        edges[-1] = 1.0 if total else 0.0
        by_source.append([Share(begin=begin, end=end) for begin, end in pairwise(edges)])
    return [[shares[number] for shares in by_source] for number in range(len(cuts))]


def tokens_before(cuts: Sequence[Cut]) -> list[list[int]]:
    """For each cut, the tokens of each source that earlier ones have read."""
    taken = np.array([cut.tokens() for cut in cuts])
    before: list[list[int]] = (np.cumsum(taken, axis=0) - taken).tolist()
    return before
