"""The bytes of input files, plain or compressed (told apart by how they begin), counted as they lie on disk."""

import importlib
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from firstlight.base.errors import InputError
from firstlight.data.faults import BrokenBytesError

COMPRESSED_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")
"""Left out when a file's format is read from its name."""
_GZIP = b"\x1f\x8b"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_BUFFER = 1 << 20
_CHUNK = 1 << 15
"""Compressed bytes at a time: few, as they can be very many when they are not compressed any more."""


class _Decompressor(Protocol):
    """What `zlib` and `zstandard` have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def open_bytes(path: Path, on_bytes: Callable[[bytes], object] = len) -> BinaryIO:
    """The decompressed content of a file; `on_bytes` sees the bytes of the file itself, in order.

    Neither magic can begin a text in UTF-8, so names do not matter. Raises InputError when it cannot be opened or
    needs a package that is not there; reading raises BrokenBytesError.
    """
    try:
        buffered = io.BufferedReader(_Counted(path, on_bytes), _BUFFER)
        head = buffered.peek(4)[:4]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if head.startswith(_GZIP):
        return io.BufferedReader(_Decompressed(buffered, _gzip_decompressor, zlib.error), _BUFFER)
    if head == _ZSTANDARD:
        zstandard = _zstandard(path)
        return io.BufferedReader(
            _Decompressed(buffered, lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError), _BUFFER
        )
    return buffered


def inner_suffix(name: str) -> str:
    """The suffix that tells the format, in small letters: `.jsonl` of `a.JSONL.gz`."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in COMPRESSED_SUFFIXES else path.suffix


def _gzip_decompressor() -> _Decompressor:
    return zlib.decompressobj(wbits=31)


def _zstandard(path: Path) -> Any:
    try:
        return importlib.import_module("zstandard")  # an optional package
    except ImportError:
        raise InputError(
            f"{path} is compressed with Zstandard, which needs the package zstandard: pip install zstandard"
        ) from None


class _Counted(io.RawIOBase):
    """A file whose bytes are shown to `on_bytes` as they are read."""

    def __init__(self, path: Path, on_bytes: Callable[[bytes], object]) -> None:
        self._file = path.open("rb", buffering=0)
        self._on_bytes = on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._file.readinto(buffer)
        self._on_bytes(bytes(memoryview(buffer)[:count]))
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Decompressed(io.RawIOBase):
    """What comes out of compressed streams that follow one another."""

    def __init__(self, source: BinaryIO, make: Callable[[], _Decompressor], broken: type[Exception]) -> None:
        self._source = source
        self._make = make
        self._broken = broken
        self._stream: _Decompressor | None = None
        self._ahead = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready:
            chunk = self._ahead or self._source.read(_CHUNK)
            self._ahead = b""
            if not chunk:
                if self._stream is not None:
                    raise BrokenBytesError("the compressed data ends too early")
                return 0
            self._ready = memoryview(self._decompress(chunk))
        count = min(len(buffer), len(self._ready))
        memoryview(buffer)[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._source.close()
        super().close()

    def _decompress(self, chunk: bytes) -> bytes:
        if self._stream is None:
            chunk = chunk.lstrip(b"\0")  # files from tapes are padded
            if not chunk:
                return b""
            self._stream = self._make()
        try:
            content = self._stream.decompress(chunk)
        except self._broken as error:
            raise BrokenBytesError(f"the compressed data is damaged ({error})") from None
        if self._stream.eof:
            self._ahead = self._stream.unused_data
            self._stream = None
        return content
