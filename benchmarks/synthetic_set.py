"""A Megatron data set of random tokens, written block by block: large ones need little memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight.data.indexed import HEADER, MAGIC, TOKEN_TYPES, VERSION, bin_path, idx_path

_BLOCK = 1 << 20
_DTYPE = np.dtype("<u2")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Documents of one sequence with 1 to `longest` uint16 tokens. Without `has_content` the .bin is one hole."""

    num_documents: int
    longest: int
    vocabulary_size: int = 50000
    has_content: bool = True


def write_synthetic_set(prefix: Path, shape: Shape) -> int:
    """Write `<prefix>.bin` and `<prefix>.idx`. Returns the number of tokens."""
    random = np.random.default_rng(0)
    blocks = [range(start, min(start + _BLOCK, shape.num_documents)) for start in range(0, shape.num_documents, _BLOCK)]
    with idx_path(prefix).open("wb") as index:
        code = TOKEN_TYPES.index(_DTYPE.str) + 1
        index.write(HEADER.pack(MAGIC, VERSION, code, shape.num_documents, shape.num_documents + 1))
        for block in blocks:
            index.write(random.integers(1, shape.longest + 1, len(block)).astype("<i4").tobytes())
        index.flush()
        num_tokens = 0
        for block in blocks:
            lengths = np.fromfile(idx_path(prefix), "<i4", len(block), offset=HEADER.size + 4 * block.start)
            ends = num_tokens + np.cumsum(lengths, dtype=np.int64)
            index.write(((ends - lengths) * _DTYPE.itemsize).astype("<i8").tobytes())
            num_tokens = int(ends[-1])
        for start in range(0, shape.num_documents + 1, _BLOCK):
            index.write(np.arange(start, min(start + _BLOCK, shape.num_documents + 1), dtype="<i8").tobytes())
    with bin_path(prefix).open("wb") as content:
        if not shape.has_content:
            content.truncate(num_tokens * _DTYPE.itemsize)
            return num_tokens
        for start in range(0, num_tokens, _BLOCK):
            count = min(_BLOCK, num_tokens - start)
            # Not id 0: the peer takes it for padding.
            content.write(random.integers(1, shape.vocabulary_size, count).astype(_DTYPE).tobytes())
    return num_tokens
