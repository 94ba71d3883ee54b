"""Megatron's orders kept on disk: built once, mapped by the runs that come after.

An entry is a file named by all that its order follows from. Ranks neither wait for one another nor need a shared disk:
whoever finds no sound entry builds the order, and gives the whole file its name in one step.
"""

import hashlib
import json
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from firstlight.base.log import get_logger
from firstlight.data.gpt_order import GptOrder, build_order, plan_order
from firstlight.data.indexed import IndexedDataset, bin_path, idx_path

FORMAT_VERSION = 1
"""Of entries and of what they hold: a change in how orders are built counts it up."""
MAGIC = b"FLORDER\0"
ARRAYS = ("document_index", "sample_index", "shuffle_index")
_PREFIX = struct.Struct("<8sIQ32s")
"""Magic, format version, size of the header's JSON, SHA-256 of that JSON."""
_ALIGNMENT = 64
_BLOCK = 1 << 22
_MOST_HEADER_BYTES = 1 << 16


class _DamagedError(Exception):
    """An entry that is not what was written."""


def open_order(
    indexed: IndexedDataset,
    sequences: range,
    *,
    num_samples: int | None,
    sequence_length: int,
    seed: int,
    extra_token: int = 1,
    cache: Path | None = None,
) -> GptOrder:
    """What `build_order` gives for these sequences of a data set; with a `cache` folder, from there or kept there."""

    def build() -> GptOrder:
        return build_order(
            indexed.lengths,
            sequences,
            num_samples=num_samples,
            sequence_length=sequence_length,
            seed=seed,
            extra_token=extra_token,
        )

    if cache is None:
        return build()
    lengths = indexed.lengths[sequences.start : sequences.stop]
    num_tokens = int(lengths.sum(dtype=np.int64))
    plan = plan_order(num_tokens, num_samples=num_samples, sequence_length=sequence_length, extra_token=extra_token)
    facts: dict[str, Any] = {
        "format": FORMAT_VERSION,
        # All that an order takes from the data set; the sizes only keep sets apart that differ elsewhere.
        "lengths": _digest_of(lengths),
        "sizes": [path(indexed.prefix).stat().st_size for path in (idx_path, bin_path)],
        "sequences": [sequences.start, sequences.stop],
        "plan": asdict(plan),
        "sequence_length": sequence_length,
        "seed": seed,
        "extra_token": extra_token,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cached_order(cache, key, build)


def cached_order(folder: Path, key: str, build: Callable[[], GptOrder]) -> GptOrder:
    """The order kept in `folder` under `key`, hex; else what `build` gives, which is then kept if that can be done.

    A found entry is read whole once, against its checksum, and mapped. One that is damaged, and a folder that cannot
    be read or written, are a line in the log, never an error.
    """
    log = get_logger()
    path = folder / f"order-{key}.bin"
    start = time.monotonic()
    try:
        order = read_entry(path, key)
        log.info(f"order of the data: read {path} in {time.monotonic() - start:.1f} s")
        return order
    except FileNotFoundError:
        pass
    except _DamagedError as fault:
        log.warning(f"order cache: {path} is damaged ({fault}); the order is built again")
    except OSError as error:
        log.warning(f"order cache: {path} cannot be read ({error.strerror}); the order is built")
    start = time.monotonic()
    order = build()
    log.info(f"order of the data: built in {time.monotonic() - start:.1f} s")
    try:
        write_entry(path, key, order)
    except OSError as error:
        log.warning(f"order cache: {path} cannot be written ({error.strerror}); the order is kept in memory only")
    return order


def write_entry(path: Path, key: str, order: GptOrder) -> None:
    """Write the entry aside, under a name of its own, and give it its name when it is on disk. Raises OSError."""
    arrays = {name: np.ascontiguousarray(getattr(order, name)) for name in ARRAYS}
    described = [
        {"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "sha256": _digest_of(array)}
        for name, array in arrays.items()
    ]
    header = json.dumps({"key": key, "extra_token": order.extra_token, "arrays": described}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Ranks may write the same entry at once: each has a file of its own until it is renamed.
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_PREFIX.pack(MAGIC, FORMAT_VERSION, len(header), hashlib.sha256(header).digest()))
            file.write(header)
            for array in arrays.values():
                file.write(bytes(-file.tell() % _ALIGNMENT))
                for block in _blocks(array):
                    file.write(block)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_entry(path: Path, key: str) -> GptOrder:
    """The order of an entry, mapped, after every byte of it was checked. Raises OSError, or _DamagedError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file, size)
        try:
            if header["key"] != key:
                raise _DamagedError("it holds another order")
            arrays = [_read_array(file, described, size) for described in header["arrays"]]
            document_index, sample_index, shuffle_index = arrays
            extra_token = int(header["extra_token"])
        except (KeyError, TypeError, ValueError) as error:
            raise _DamagedError(f"its header is not understood: {error}") from None
        if file.tell() != size:
            raise _DamagedError(f"it has {size - file.tell()} bytes too many")
    return GptOrder(
        document_index=document_index, sample_index=sample_index, shuffle_index=shuffle_index, extra_token=extra_token
    )


def _read_header(file: BinaryIO, size: int) -> Any:
    start = file.read(_PREFIX.size)
    if len(start) < _PREFIX.size:
        raise _DamagedError(f"{size} bytes are no entry")
    magic, version, length, digest = _PREFIX.unpack(start)
    if magic != MAGIC or version != FORMAT_VERSION:
        raise _DamagedError("it does not begin as an entry of this version")
    text = file.read(length) if length <= min(size, _MOST_HEADER_BYTES) else b""
    if hashlib.sha256(text).digest() != digest:
        raise _DamagedError("the checksum of its header differs")
    return json.loads(text)


def _read_array(file: BinaryIO, described: dict[str, Any], size: int) -> NDArray[Any]:
    dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
    if dtype.kind not in "iu" or min(shape) < 0:
        raise _DamagedError(f"{described['name']} is no array of integers")
    if any(file.read(-file.tell() % _ALIGNMENT)):
        raise _DamagedError("there is something between its arrays")
    place = file.tell()
    num_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if place + num_bytes > size:
        raise _DamagedError(f"{size} bytes end within {described['name']}")
    digest = hashlib.sha256()
    # Read, not mapped: the pages that no sample needs at first are not taken into memory.
    for start in range(0, num_bytes, _BLOCK):
        digest.update(file.read(min(_BLOCK, num_bytes - start)))
    if digest.hexdigest() != described["sha256"]:
        raise _DamagedError(f"the checksum of {described['name']} differs")
    if num_bytes == 0:  # nothing cannot be mapped
        return np.empty(shape, dtype)
    array = np.memmap(file, dtype, mode="r", offset=place, shape=shape).view(np.ndarray)
    file.seek(place + num_bytes)
    return array


def _digest_of(array: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for block in _blocks(array):
        digest.update(block)
    return digest.hexdigest()


def _blocks(array: NDArray[Any]) -> Iterator[memoryview]:
    """The bytes of a contiguous array, piece by piece."""
    content = array.reshape(-1).view(np.uint8)
    for start in range(0, len(content), _BLOCK):
        yield content[start : start + _BLOCK].data
