"""Files in pieces of one size, each with its digest: what is read is checked, and nothing is read for the check alone.

Pieces are hashed by threads of their own while others are written or read. What is read goes straight to where it is
wanted, and is hashed there.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from pathlib import Path

from blake3 import blake3

from firstlight.checkpoint.manifest import FileRecord, UnusableCheckpoint

HASHING_THREADS = 2
"""Of a save: one keeps up with a disk of 3 GB/s; more would take the cores of the training."""

_READING_THREADS = 4
"""Of a load, during which nothing else goes on."""

_AHEAD = 2 * _READING_THREADS
"""Pieces that are read and hashed before they are waited for."""

_READ_BYTES = 1 << 20
"""That are hashed as soon as they are read: a core's cache still holds them then."""

_MAX_VIEWS = 1024
"""That one read may fill (IOV_MAX of Linux)."""

Act = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Landing:
    """Where bytes of a file go: `runs` of memory, each with the place of its bytes in the file, forwards; and what is
    done when they are there, if anything."""

    runs: Iterable[tuple[int, memoryview]]
    arrived: Act | None = None


@dataclass(kw_only=True)
class _Wanted:
    """Of one piece: the runs that lie in it, and what is done when all up to them are filled."""

    number: int
    runs: list[tuple[int, memoryview]] = field(default_factory=list)
    arrived: list[Act] = field(default_factory=list)


class ReadAhead:
    """Threads that read a few pieces before the one that is waited for. What follows is done by the one who waits."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._coming: deque[tuple[Future[None], Sequence[Act]]] = deque()

    def do(self, act: Act, then: Sequence[Act] = ()) -> None:
        """Have `act` done by a thread, and `then` once it and all before it are done."""
        while len(self._coming) >= _AHEAD:
            self._wait()
        self._coming.append((self._pool.submit(act), then))

    def finish(self) -> None:
        """Wait for all."""
        while self._coming:
            self._wait()

    def _wait(self) -> None:
        done, then = self._coming.popleft()
        done.result()
        for follow in then:
            follow()


@contextmanager
def reading_ahead() -> Iterator[ReadAhead]:
    """All is done at the end; after an error nothing more is read."""
    with ThreadPoolExecutor(_READING_THREADS, "read") as pool:
        ahead = ReadAhead(pool)
        try:
            yield ahead
            ahead.finish()
        finally:
            pool.shutdown(cancel_futures=True)


def in_pieces(content: Iterable[memoryview], piece_bytes: int) -> Iterator[list[memoryview]]:
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
    """An open file whose bytes are those of its record, or UnusableCheckpoint is raised where they are read."""

    def __init__(self, path: Path, file: FileIO, record: FileRecord) -> None:
        self._path = path
        self._file = file
        self._record = record
        self._known: tuple[int, memoryview] = (-1, memoryview(b""))
        self._spare: list[memoryview] = []
        size = os.fstat(file.fileno()).st_size
        if size != record.num_bytes:
            raise UnusableCheckpoint(f"{path} has {size} bytes, expected {record.num_bytes}")

    def fill(self, target: memoryview, place: int) -> None:
        """Fill `target` with the bytes from `place` on, which are checked before."""
        self._require(place + len(target))
        while target:
            number, begin = divmod(place, self._record.piece_bytes)
            if self._known[0] != number:
                content = memoryview(bytearray(self._end(number) - self._begin(number)))
                self._read(number, [(self._begin(number), content)])
                self._known = (number, content)
            part = self._known[1][begin : begin + len(target)]
            target[: len(part)] = part
            target, place = target[len(part) :], place + len(part)

    def land(self, landings: Iterable[Landing], ahead: ReadAhead) -> None:
        """Have all of them filled, and the file closed after that. Each piece is read once, and checked.

        They come in the order of the file, and one is asked for when it is its turn.
        """
        for wanted in self._by_piece(landings):
            ahead.do(partial(self._read, wanted.number, wanted.runs) if wanted.runs else _nothing, wanted.arrived)

    def verify(self, ahead: ReadAhead) -> None:
        """Have all of it read and checked."""
        for number in range(len(self._record.pieces)):
            ahead.do(partial(self._read, number, []))

    def close(self) -> None:
        """Nothing is read after this."""
        self._file.close()
        self._known = (-1, memoryview(b""))
        self._spare.clear()

    def _by_piece(self, landings: Iterable[Landing]) -> Iterator[_Wanted]:
        wanted = _Wanted(number=-1)
        for landing in landings:
            for place, memory in landing.runs:
                self._require(place + len(memory))
                while memory:
                    number = place // self._record.piece_bytes
                    if number != wanted.number:
                        yield wanted
                        wanted = _Wanted(number=number)
                    part = memory[: self._end(number) - place]
                    wanted.runs.append((place, part))
                    memory, place = memory[len(part) :], place + len(part)
            if landing.arrived is not None:
                wanted.arrived.append(landing.arrived)
        wanted.arrived.append(self.close)
        yield wanted

    def _read(self, number: int, runs: Sequence[tuple[int, memoryview]]) -> None:
        """Read piece `number`, these runs of it into their memory, and check the whole."""
        begin, end = self._begin(number), self._end(number)
        if self._known[0] == number:
            for place, memory in runs:
                memory[:] = self._known[1][place - begin :][: len(memory)]
            return
        aside = self._aside()
        digest, place = blake3(), begin
        for some in in_pieces(self._covering(begin, end, runs, aside), _READ_BYTES):
            place = fill_from(self._path, self._file, some, place)
            for view in some:
                digest.update(view)
        self._spare.append(aside)
        found, expected = digest.hexdigest(), self._record.pieces[number]
        if found != expected:
            raise UnusableCheckpoint(
                f"{self._path} is changed in bytes {begin} to {end}: BLAKE3 {found}, expected {expected}"
            )

    def _aside(self) -> memoryview:
        """Memory of a piece's size that no other thread has."""
        try:
            return self._spare.pop()
        except IndexError:
            return memoryview(bytearray(min(self._record.piece_bytes, self._record.num_bytes)))

    def _covering(
        self, begin: int, end: int, runs: Sequence[tuple[int, memoryview]], aside: memoryview
    ) -> Iterator[memoryview]:
        """All memory for the bytes from `begin` to `end`, what is not asked for in `aside`."""
        at = begin
        for place, memory in runs:
            if place < at:
                raise UnusableCheckpoint(f"{self._path} has the bytes from {place} to {at} in two tensors")
            yield aside[at - begin : place - begin]
            yield memory
            at = place + len(memory)
        yield aside[at - begin : end - begin]

    def _require(self, end: int) -> None:
        if end > self._record.num_bytes:
            raise UnusableCheckpoint(f"{self._path} ends at byte {self._record.num_bytes}, in the middle of a tensor")

    def _begin(self, number: int) -> int:
        return number * self._record.piece_bytes

    def _end(self, number: int) -> int:
        return min((number + 1) * self._record.piece_bytes, self._record.num_bytes)


def _nothing() -> None:
    pass


def fill_from(path: Path, file: FileIO, targets: Sequence[memoryview], place: int) -> int:
    """Fill `targets`, one after the other, from `place` on; where the bytes end in the file.

    Raises UnusableCheckpoint when the file ends before, or cannot be read.
    """
    waiting = [target for target in targets if target]
    while waiting:
        try:
            count = os.preadv(file.fileno(), waiting[:_MAX_VIEWS], place)
        except OSError as error:
            raise UnusableCheckpoint(f"{path} cannot be read: {error}") from None
        if count == 0:
            raise UnusableCheckpoint(f"{path} ends at byte {place}, in the middle of a tensor")
        place += count
        while waiting and count >= len(waiting[0]):
            count -= len(waiting.pop(0))
        if count:
            waiting[0] = waiting[0][count:]
    return place


@contextmanager
def checked(path: Path, record: FileRecord) -> Iterator[PieceReader]:
    """The file at `path`, held to its record. Raises UnusableCheckpoint when it cannot be read, here and inside."""
    with file_at(path) as file:
        reader = PieceReader(path, file, record)
        try:
            yield reader
        finally:
            reader.close()


@contextmanager
def file_at(path: Path) -> Iterator[FileIO]:
    """The file at `path`, open for reading. Raises UnusableCheckpoint when it cannot be opened."""
    try:
        file = FileIO(path)
    except OSError as error:
        raise UnusableCheckpoint(f"{path} cannot be read: {error}") from None
    with file:
        yield file


def verify_file(path: Path, record: FileRecord) -> None:
    """Raise UnusableCheckpoint unless the file is, byte for byte, the one that was recorded."""
    with checked(path, record) as pieces, reading_ahead() as ahead:
        pieces.verify(ahead)
