"""Made-up documents, from no file: Megatron's MockGPTDataset, for benchmarks and dry runs."""

import numpy as np
from numpy.typing import NDArray

from firstlight.data.gpt_order import GptOrder, build_order
from firstlight.data.samples import Samples, require_numbers

_NUM_DOCUMENTS = 100_000
_LONGEST = 4096


class MockDataset:
    """Document d has the tokens 1, 2, ... up to a length that is drawn once and for all, then the end of document."""

    def __init__(
        self,
        sequence_length: int,
        *,
        num_samples: int | None,
        seed: int,
        end_of_document: int,
        vocab_size: int,
        documents: range = range(_NUM_DOCUMENTS),
    ) -> None:
        """At least `num_samples` samples of `documents`, ordered as Megatron orders a file; None: one epoch."""
        self.sequence_length = sequence_length
        self.lengths = mock_lengths()
        self.order: GptOrder = build_order(
            self.lengths, documents, num_samples=num_samples, sequence_length=sequence_length, seed=seed
        )
        self._end_of_document = end_of_document
        self._numbers = (np.arange(1, _LONGEST, dtype=np.int32) % vocab_size).astype(np.int32)

    def __len__(self) -> int:
        return len(self.order.shuffle_index)

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        """Write sample `numbers[i]` into row `rows[i]`; all tokens are real. Raises IndexError."""
        require_numbers(numbers, len(self), "the mock data set")
        starts = self.order.sample_index[self.order.shuffle_index[numbers]].tolist()
        for row, (position, offset) in zip(rows.tolist(), starts, strict=True):
            tokens, begins = out.tokens[row], out.begins[row]
            begins[:] = False
            filled = 0
            while filled < len(tokens):
                length = int(self.lengths[self.order.document_index[position]])
                count = min(length - offset, len(tokens) - filled)
                if count:
                    begins[filled] = True
                    part = tokens[filled : filled + count]
                    plain = min(count, length - 1 - offset)
                    part[:plain] = self._numbers[offset : offset + plain]
                    part[plain:] = self._end_of_document
                filled += count
                position, offset = position + 1, 0
        out.begins[rows, 0] = True
        out.num_real[rows] = out.tokens.shape[1]


def mock_lengths() -> NDArray[np.int32]:
    """The lengths of all mock documents, int32 [100000]."""
    return np.random.default_rng(0).integers(1, _LONGEST, _NUM_DOCUMENTS).astype(np.int32)
