"""Fill in the middle (Bavarian et al., arXiv:2207.14255): documents rearranged as Megatron's GPTFIMDataset does it.

What happens to a sample follows from the seed and the number of the sample, so it is the same for any number of
ranks, workers and restarts. (Megatron draws from one stream as samples are fetched.)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from firstlight.data.samples import Dataset, Samples, position_of, send_to


@dataclass(frozen=True, kw_only=True)
class FimTokens:
    """Ids of the tokens that mark the three parts, and of the end of document."""

    prefix: int
    middle: int
    suffix: int
    end_of_document: int


@dataclass(frozen=True, kw_only=True)
class Rearranging:
    """How documents are rearranged: a share `rate` of them, of which `spm_rate` with the suffix first."""

    rate: float
    spm_rate: float
    tokens: FimTokens
    decode: Callable[[Sequence[int]], str]
    encode: Callable[[str], Sequence[int]]

    @classmethod
    def with_tokenizer(cls, tokenizer: Tokenizer, tokens: FimTokens, *, rate: float, spm_rate: float) -> "Rearranging":
        """Documents are cut between characters of their text, and each part is encoded by itself."""
        return cls(
            rate=rate,
            spm_rate=spm_rate,
            tokens=tokens,
            decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        )

    def document(self, ids: Sequence[int], random: np.random.RandomState) -> Sequence[int]:
        """The ids of one document without its end, rearranged or as they are."""
        if not random.binomial(1, self.rate):
            return ids
        text = self.decode(ids)
        first, second = sorted(random.randint(low=0, high=len(text) + 1, size=2).tolist())
        prefix, middle, suffix = (self.encode(part) for part in (text[:first], text[first:second], text[second:]))
        tokens = self.tokens
        if random.binomial(1, self.spm_rate):
            return [tokens.prefix, tokens.suffix, *suffix, tokens.middle, *prefix, *middle]
        return [tokens.prefix, *prefix, tokens.suffix, *suffix, tokens.middle, *middle]

    def sample(self, ids: Sequence[int], random: np.random.RandomState) -> tuple[list[int], list[int]]:
        """All documents of a sample, and the places where they begin; may be longer or shorter than the sample.

        An empty document keeps its end, which Megatron drops.
        """
        out: list[int] = []
        begins = []
        start = 0
        for place in [at for at, token in enumerate(ids) if token == self.tokens.end_of_document]:
            begins.append(len(out))
            if place > start:
                out += self.document(ids[start:place], random)
            out.append(self.tokens.end_of_document)
            start = place + 1
        begins.append(len(out))
        out += self.document(ids[start:], random)
        return out, begins


class FimDataset:
    """The samples of a data set, rearranged and cut to their length; where they become shorter the end is not real."""

    def __init__(self, dataset: Dataset, rearranging: Rearranging, *, seed: int) -> None:
        self.sequence_length = dataset.sequence_length
        self._dataset = dataset
        self._rearranging = rearranging
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """As the data set's own `read`, then rearranged."""
        self._dataset.read(numbers, out, rows)
        width = out.tokens.shape[1]
        for number, row in zip(numbers.tolist(), rows.tolist(), strict=True):
            random = np.random.RandomState(np.random.SeedSequence((self._seed, number)).generate_state(8))
            ids, begins = self._rearranging.sample(out.tokens[row, : out.num_real[row]].tolist(), random)
            num_real = min(len(ids), int(out.num_real[row]))
            out.tokens[row, :num_real] = ids[:num_real]
            out.tokens[row, num_real:] = 0
            out.num_real[row] = num_real
            out.begins[row] = False
            out.begins[row, [place for place in begins if place < width]] = True

    def position(self, number: int) -> dict[str, Any]:
        """As the data set's own."""
        return position_of(self._dataset, number)

    def go_to(self, number: int, position: Mapping[str, Any]) -> None:
        """As the data set's own."""
        send_to(self._dataset, number, position)
