"""Files in pieces of one size, each with its digest: what is read is checked, and nothing is read for the check alone.

Pieces are hashed by threads of their own while others are written or read.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from firstlight.checkpoint.manifest import FileRecord, UnusableCheckpoint

HASHING_THREADS = 2
"""Of a save: one keeps up with a disk of 3 GB/s; more would take the cores of the training."""

_READING_THREADS = 4
"""Of a load, during which nothing else goes on."""

_AHEAD = 2 * _READING_THREADS
"""Pieces that are read and hashed before they are asked for."""


def in_pieces(content: Sequence[memoryview], piece_bytes: int) -> Iterator[list[memoryview]]:
    """`content`, one part after the other, cut into pieces; the last may be shorter. Nothing is copied."""
    piece: list[memoryview] = []
    room = piece_bytes
    for whole in content:
        part = whole.cast("B")
        while part:
            piece.append(part[:room])
            part, room = part[room:], room - piece[-1].nbytes
            if room == 0:
                yield piece
                piece, room = [], piece_bytes
    if piece:
        yield piece


def digest_of(piece: Iterable[memoryview]) -> str:
    """BLAKE3 of the parts, one after the other, as hexadecimal."""
    digest = blake3()
    for part in piece:
        digest.update(part)
    return digest.hexdigest()


class PieceReader:
    """An open file whose bytes are those of its record, or UnusableCheckpoint is raised where they are read.

    Made for reading forwards: pieces that were announced are read and checked by threads before they are asked for.
    """

    def __init__(self, path: Path, descriptor: int, record: FileRecord) -> None:
        self._path = path
        self._descriptor = descriptor
        self._record = record
        self._pool = ThreadPoolExecutor(_READING_THREADS, "read")
        self._expected: deque[int] = deque()
        self._coming: deque[tuple[int, Future[bytearray]]] = deque()
        self._current: tuple[int, bytearray] = (-1, bytearray())
        self._spare: list[bytearray] = []
        size = os.fstat(descriptor).st_size
        if size != record.num_bytes:
            raise UnusableCheckpoint(f"{path} has {size} bytes, expected {record.num_bytes}")

    def close(self) -> None:
        """Wait for what is being read."""
        self._pool.shutdown(cancel_futures=True)

    def announce(self, spans: Iterable[tuple[int, int]]) -> None:
        """Begin and end, in bytes, of what will be asked for, in that order."""
        size = self._record.piece_bytes
        for begin, end in spans:
            for number in range(begin // size, -(-end // size)):
                if not self._expected or self._expected[-1] != number:
                    self._expected.append(number)
        self._read_ahead()

    def verify(self) -> None:
        """Read and check all of it."""
        self.announce([(0, self._record.num_bytes)])
        for number in range(len(self._record.pieces)):
            self._piece(number)

    def fill(self, target: memoryview, place: int) -> None:
        """Fill `target` with the bytes from `place` on."""
        if place + len(target) > self._record.num_bytes:
            raise UnusableCheckpoint(f"{self._path} ends at byte {self._record.num_bytes}, in the middle of a tensor")
        while target:
            number, begin = divmod(place, self._record.piece_bytes)
            part = memoryview(self._piece(number))[begin : begin + len(target)]
            target[: len(part)] = part
            target, place = target[len(part) :], place + len(part)

    def _piece(self, number: int) -> bytearray:
        if self._current[0] != number:
            self._spare.append(self._current[1])
            while self._coming and self._coming[0][0] != number:
                self._spare.append(self._coming.popleft()[1].result())
            piece = self._coming.popleft()[1].result() if self._coming else self._checked(number, self._spare.pop())
            self._current = (number, piece)
            self._read_ahead()
        return self._current[1]

    def _read_ahead(self) -> None:
        while self._expected and len(self._coming) < _AHEAD:
            number = self._expected.popleft()
            buffer = self._spare.pop() if self._spare else bytearray()
            self._coming.append((number, self._pool.submit(self._checked, number, buffer)))

    def _checked(self, number: int, buffer: bytearray) -> bytearray:
        """Piece `number`, in `buffer` where that has its size."""
        begin = number * self._record.piece_bytes
        end = min(begin + self._record.piece_bytes, self._record.num_bytes)
        if len(buffer) != end - begin:
            buffer = bytearray(end - begin)
        fill_from(self._path, self._descriptor, memoryview(buffer), begin)
        found, expected = digest_of([memoryview(buffer)]), self._record.pieces[number]
        if found != expected:
            raise UnusableCheckpoint(
                f"{self._path} is changed in bytes {begin} to {end}: BLAKE3 {found}, expected {expected}"
            )
        return buffer


def fill_from(path: Path, descriptor: int, target: memoryview, place: int) -> None:
    """Fill `target` from an open file, from `place` on. Raises UnusableCheckpoint when the file ends before."""
    while target:
        count = os.preadv(descriptor, [target], place)
        if count == 0:
            raise UnusableCheckpoint(f"{path} ends at byte {place}, in the middle of a tensor")
        target, place = target[count:], place + count


@contextmanager
def checked(path: Path, record: FileRecord) -> Iterator[PieceReader]:
    """The file at `path`, held to its record. Raises UnusableCheckpoint when it cannot be read, here and inside."""
    with descriptor_of(path) as descriptor:
        reader = PieceReader(path, descriptor, record)
        try:
            yield reader
        finally:
            reader.close()


@contextmanager
def descriptor_of(path: Path) -> Iterator[int]:
    """The file at `path`, open for reading; what the disk refuses, here and inside, is an UnusableCheckpoint."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnusableCheckpoint(f"{path} cannot be read: {error}") from None


def verify_file(path: Path, record: FileRecord) -> None:
    """Raise UnusableCheckpoint unless the file is, byte for byte, the one that was recorded."""
    with checked(path, record) as reader:
        reader.verify()
