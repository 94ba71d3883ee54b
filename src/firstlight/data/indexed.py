"""Megatron's indexed data set: tokens in `<prefix>.bin`, lengths and places of its sequences in `<prefix>.idx`.

Both are little-endian and unpadded. The .idx holds: magic (9 bytes), u64 version, u8 dtype code, u64 number of
sequences S, u64 number of documents plus one D, i32[S] lengths in tokens, i64[S] byte offsets into the .bin,
i64[D] document indices (0, then the sequence count after each document), and for multimodal sets i8[S] modes.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import InputError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
TOKEN_TYPES = ("<u1", "<i1", "<i2", "<i4", "<i8", "<f8", "<f4", "<u2")
"""The dtype of code 1, 2, ... 8."""
SMALL_VOCABULARY = 65500
"""Vocabularies below this size are stored as uint16, as Megatron does."""
_BLOCK = 1 << 20

Tokens = NDArray[Any]


def bin_path(prefix: Path) -> Path:
    """The file of tokens."""
    return Path(f"{prefix}.bin")


def idx_path(prefix: Path) -> Path:
    """The file of lengths and places."""
    return Path(f"{prefix}.idx")


def best_dtype(vocab_size: int | None) -> np.dtype[Any]:
    """The dtype Megatron stores ids of this vocabulary in: uint16 if known and below 65500, else int32."""
    is_small = vocab_size is not None and vocab_size < SMALL_VOCABULARY
    return np.dtype(np.uint16 if is_small else np.int32)


class IndexedDataset:
    """A data set on disk, memory-mapped; `open` has checked that every sequence lies within the .bin file.

    `lengths` int32 [S] in tokens, `pointers` int64 [S] in bytes, `document_indices` int64 [D]: views of the .idx file;
    `content` uint8 [bytes] is the .bin file.
    """

    def __init__(
        self,
        *,
        prefix: Path,
        dtype: np.dtype[Any],
        arrays: tuple[Tokens, Tokens, Tokens],
        content: Tokens,
        num_tokens: int,
    ) -> None:
        self.prefix = prefix
        self.dtype = dtype
        self.lengths, self.pointers, self.document_indices = arrays
        self.num_tokens = num_tokens
        self.content = content

    @classmethod
    def open(cls, prefix: Path) -> "IndexedDataset":
        """Map `<prefix>.bin` and `<prefix>.idx`. Raises InputError when one is missing or they do not fit together."""
        index_file = idx_path(prefix)
        index = map_bytes(index_file)
        dtype, num_sequences, num_indices = read_header(index_file, index)
        after_lengths = HEADER.size + 4 * num_sequences
        after_pointers = after_lengths + 8 * num_sequences
        arrays = (
            index[HEADER.size : after_lengths].view("<i4"),
            index[after_lengths:after_pointers].view("<i8"),
            index[after_pointers : after_pointers + 8 * num_indices].view("<i8"),
        )
        content = map_bytes(bin_path(prefix))
        _check_documents(index_file, num_indices, num_sequences)
        num_tokens = _check_places(index_file, num_sequences, itemsize=dtype.itemsize, size=len(content))
        return cls(prefix=prefix, dtype=dtype, arrays=arrays, content=content, num_tokens=num_tokens)

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.lengths)

    def tokens(self, sequence: int, offset: int = 0, length: int | None = None) -> Tokens:
        """Tokens `offset` to `offset + length` (to the end by default) of a sequence: a view [length] of the file.

        Raises IndexError when there is no such sequence, or it has not so many tokens.
        """
        if not 0 <= sequence < len(self.lengths):
            raise IndexError(f"sequence {sequence} is not one of the {len(self.lengths)} of {self.prefix}")
        available = int(self.lengths[sequence])
        length = available - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > available:
            raise IndexError(f"sequence {sequence} has {available} tokens, not {offset} + {length}")
        start = int(self.pointers[sequence]) + offset * self.dtype.itemsize
        return self.content[start : start + length * self.dtype.itemsize].view(self.dtype)


def map_bytes(path: Path) -> Tokens:
    """The bytes of a file, uint8 [size], as a plain array on a memory map."""
    try:
        if path.stat().st_size == 0:  # an empty file cannot be mapped
            return np.empty(0, np.uint8)
        return np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; a data set is named by its path without .bin and .idx, "
            "and made by `firstlight prepare`"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _refuse(path: Path, fault: str) -> NoReturn:
    raise InputError(f"{path}: {fault}; the file is damaged or incomplete: copy it again or prepare it again")


def read_header(path: Path, index: Tokens) -> tuple[np.dtype[Any], int, int]:
    """(dtype, number of sequences, number of document indices), checked against the size of the file."""
    if len(index) < HEADER.size:
        _refuse(path, f"{len(index)} bytes are fewer than the {HEADER.size} of the header")
    magic, version, code, num_sequences, num_indices = HEADER.unpack(index[: HEADER.size].tobytes())
    if magic != MAGIC:
        raise InputError(f"{path}: begins with {magic!r}, not {MAGIC!r}; this is not the .idx of a Megatron data set")
    if version != VERSION:
        raise InputError(f"{path}: version {version} of the format is unknown; only version {VERSION} can be read")
    if not 1 <= code <= len(TOKEN_TYPES):
        _refuse(path, f"dtype code {code} is not one of 1 to {len(TOKEN_TYPES)}")
    expected = HEADER.size + 12 * num_sequences + 8 * num_indices
    if len(index) not in (expected, expected + num_sequences):
        counts = f"{num_sequences} sequences and {num_indices} document indices"
        _refuse(path, f"{len(index)} bytes, but a header of {counts} needs {expected}")
    return np.dtype(TOKEN_TYPES[code - 1]), num_sequences, num_indices


def _check_documents(path: Path, num_indices: int, num_sequences: int) -> None:
    """The indices start at 0, never fall and end at the number of sequences."""
    if num_indices == 0:
        _refuse(path, "the first document index is nothing, not 0")
    before = 0
    place = HEADER.size + 12 * num_sequences
    for start, block in _blocks(path, "<i8", place, num_indices):
        if start == 0 and block[0] != 0:
            _refuse(path, f"the first document index is {int(block[0])}, not 0")
        falls = np.flatnonzero(np.diff(block, prepend=before) < 0)
        if len(falls):
            _refuse(path, f"document index {start + int(falls[0])} is smaller than the one before it")
        before = int(block[-1])
    if before != num_sequences:
        _refuse(path, f"the last document index is {before}, not the {num_sequences} sequences")


def _check_places(path: Path, num_sequences: int, *, itemsize: int, size: int) -> int:
    """Every sequence lies within a .bin file of `size` bytes. Returns the number of tokens."""
    num_tokens = 0
    all_lengths = _blocks(path, "<i4", HEADER.size, num_sequences)
    all_places = _blocks(path, "<i8", HEADER.size + 4 * num_sequences, num_sequences)
    for (start, lengths), (_, places) in zip(all_lengths, all_places, strict=True):
        block = lengths.astype(np.int64)
        # Written without a sum: a hostile pointer would overflow it.
        wrong = np.flatnonzero((block < 0) | (places < 0) | (places > size - block * itemsize))
        if len(wrong):
            which = int(wrong[0])
            place = f"{int(block[which])} tokens of {itemsize} bytes at byte {int(places[which])}"
            _refuse(path, f"sequence {start + which} has {place}, outside the {size} bytes of its .bin file")
        num_tokens += int(block.sum())
    return num_tokens


def _blocks(path: Path, dtype: str, place: int, count: int) -> Iterator[tuple[int, Tokens]]:
    """(number of the first, values) of `count` values from byte `place` on.

    Read, not mapped: a look at all of them does not leave them in memory.
    """
    for start in range(0, count, _BLOCK):
        wanted = min(_BLOCK, count - start)
        yield start, np.fromfile(path, dtype, wanted, offset=place + start * np.dtype(dtype).itemsize)
