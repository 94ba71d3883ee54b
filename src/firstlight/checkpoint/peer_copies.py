"""Snapshots of several nodes: a node's memory holds what its ranks wrote, and a copy of what the node before it wrote.

What one node has lost another one still has. The manifest of a snapshot is whole on every node; its files are where
they were written and with the peer.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from firstlight.base.log import get_logger
from firstlight.checkpoint.files import write_durably
from firstlight.checkpoint.manifest import MANIFEST, FileRecord, Manifest, Part, UnusableCheckpoint, read_manifest
from firstlight.checkpoint.memory import MemoryDisk
from firstlight.checkpoint.pieces import verify_file
from firstlight.checkpoint.step_folder import candidates, step_of
from firstlight.checkpoint.writer import part_file

_CHUNK_BYTES = 1 << 26
"""That travel at once."""


Files = Mapping[str, FileRecord]


class Carrier(Protocol):
    """Carries bytes between the ranks. Every method is a collective."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def texts(self, text: str) -> list[str]:
        """The texts of all ranks, by rank."""

    def shift(self, content: memoryview, distance: int, num_bytes: int) -> memoryview:
        """Send `content` so many ranks on, and return the `num_bytes` that the rank so far behind sends."""

    def broadcast(self, content: memoryview | None, source: int, num_bytes: int) -> memoryview:
        """The content that rank `source` has, on all ranks."""


class PeerCopies:
    """Of the snapshots of this rank's node. `ranks_per_node` ranks of one machine have numbers that follow each other.

    All methods are collectives.
    """

    def __init__(self, carrier: Carrier, *, ranks_per_node: int, key: bytes | None) -> None:
        self._carrier = carrier
        self._per_node = ranks_per_node
        self._key = key
        self._disk = MemoryDisk()

    @property
    def is_first_of_node(self) -> bool:
        """Whether this rank acts for its node."""
        return self._carrier.rank % self._per_node == 0

    def spread(self, staging: Path, manifest: Manifest) -> Manifest:
        """Copy this node's new files to the next one, and all ranks' parts of the manifest to all; the first rank's
        manifest."""
        me = self._carrier.rank
        mine = {"part": part_file(staging, me).read_text(), "manifest": manifest.text() if me == 0 else ""}
        told = [json.loads(text) for text in self._carrier.texts(json.dumps(mine))]
        parts = [Part.model_validate_json(one["part"]) for one in told]
        coming = parts[(me - self._per_node) % self._carrier.size].files
        received = self._shift(staging, parts[me].files, coming, _num_chunks(parts))
        try:
            if self.is_first_of_node:
                for rank, one in enumerate(told):
                    if rank // self._per_node != me // self._per_node:
                        part_file(staging, rank).write_text(one["part"])
            self._write(staging, coming, received)
        except OSError as error:  # the node's own part is there, and others may have a copy of it
            get_logger().warning(f"the peer's copy is not written in {staging}: {error}")
        self._carrier.texts("")  # nothing is published before all have written
        return Manifest.model_validate_json(told[0]["manifest"])

    def steps(self, folder: Path) -> list[int]:
        """Of the snapshots that some node has."""
        mine = [step_of(one) for one in candidates(folder)] if self.is_first_of_node else []
        return sorted({step for text in self._carrier.texts(json.dumps(mine)) for step in json.loads(text)})

    def bring_manifest(self, folder: Path) -> None:
        """Put the manifest of a snapshot where a node has none, or a damaged one."""
        mine = _sound_manifest(folder, self._key) if self.is_first_of_node else ""
        found = next(iter(filter(None, self._carrier.texts(mine))), "")
        if self.is_first_of_node and not mine and found:
            with suppress(OSError):  # its absence is noticed where it is read
                self._disk.make_folder(folder)
                _replace(folder / MANIFEST, [found.encode()])
        self._carrier.texts("")

    def bring_files(self, folder: Path, manifest: Manifest, names: Collection[str]) -> None:
        """Put the files that ranks of a node need, and that it does not have or not whole, into its memory.

        A file that no node has stays away, which is noticed where it is read.
        """
        mine = {"has": sorted(self._sound(folder, manifest)), "wants": sorted(names)}
        told = [json.loads(text) for text in self._carrier.texts(json.dumps(mine))]
        for name in sorted({name for one in told for name in one["wants"]}):
            holders = [rank for rank, one in enumerate(told) if name in one["has"]]
            served = {rank // self._per_node for rank in holders}
            needing = {rank // self._per_node for rank, one in enumerate(told) if name in one["wants"]} - served
            if needing and holders:
                self._hand_out(folder / name, holders[0], manifest.files[name].num_bytes, needing)
        self._carrier.texts("")

    def _hand_out(self, path: Path, holder: int, num_bytes: int, nodes: Collection[int]) -> None:
        """From the memory of `holder`'s node to that of `nodes`."""
        node = self._carrier.rank // self._per_node
        is_taken = self.is_first_of_node and node in nodes
        content = memoryview(path.read_bytes()) if self._carrier.rank == holder else None
        pieces = self._pieces(content, holder, num_bytes)
        if not is_taken:
            for _ in pieces:
                pass
            return
        get_logger().warning("%s comes from node %d of the run", path, holder // self._per_node)
        taken = [bytes(piece) for piece in pieces]
        try:
            path.unlink(missing_ok=True)
            _replace(path, taken)
        except OSError as error:
            get_logger().warning(f"{path} cannot be written: {error}")

    def _pieces(self, content: memoryview | None, holder: int, num_bytes: int) -> Iterable[memoryview]:
        for begin in range(0, num_bytes, _CHUNK_BYTES):
            end = min(begin + _CHUNK_BYTES, num_bytes)
            piece = None if content is None else content[begin:end]
            yield self._carrier.broadcast(piece, holder, end - begin)

    def _shift(self, staging: Path, going: Files, coming: Files, num_chunks: int) -> bytearray:
        """The files one after the other, as one stream. All ranks take as many turns as the longest stream needs."""
        sent = memoryview(b"".join((staging / name).read_bytes() for name in sorted(going)))
        received = bytearray(sum(record.num_bytes for record in coming.values()))
        for number in range(num_chunks):
            begin, end = number * _CHUNK_BYTES, (number + 1) * _CHUNK_BYTES
            num_bytes = max(min(end, len(received)) - begin, 0)
            received[begin : begin + num_bytes] = self._carrier.shift(sent[begin:end], self._per_node, num_bytes)
        return received

    def _write(self, staging: Path, coming: Files, received: bytearray) -> None:
        place = 0
        for name in sorted(coming):
            end = place + coming[name].num_bytes
            write_durably(self._disk, staging / name, [memoryview(received)[place:end]])
            place = end

    def _sound(self, folder: Path, manifest: Manifest) -> set[str]:
        """The files of this node that are as they were recorded; told by one of its ranks. Others go."""
        found: set[str] = set()
        if not self.is_first_of_node:
            return found
        for name, record in manifest.files.items():
            path = folder / name
            if path.exists():
                try:
                    verify_file(path, record)
                    found.add(name)
                except UnusableCheckpoint as error:
                    get_logger().warning(f"snapshot passed over: {error}")
                    path.unlink(missing_ok=True)
        return found


def _sound_manifest(folder: Path, key: bytes | None) -> str:
    try:
        return read_manifest(folder, key).text()
    except UnusableCheckpoint:
        return ""


def _num_chunks(parts: Sequence[Part]) -> int:
    """Of the rank with most to send."""
    longest = max(sum(record.num_bytes for record in part.files.values()) for part in parts)
    return -(-longest // _CHUNK_BYTES)


def _replace(path: Path, content: Sequence[bytes]) -> None:
    """The file appears whole."""
    aside = path.with_name(path.name + ".partial")
    aside.unlink(missing_ok=True)
    write_durably(MemoryDisk(), aside, [memoryview(one) for one in content])
    aside.rename(path)
