"""Checkpoints in object storage, through fsspec: the manifest is put last, and what has none is no checkpoint.

There is no rename and no lock there; an object appears whole or not at all, and that is enough for a commit.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from firstlight.base.errors import FirstlightError, InputError, NoCheckpointError
from firstlight.base.log import get_logger
from firstlight.checkpoint.disk import LocalDisk
from firstlight.checkpoint.files import flush_folder, write_durably
from firstlight.checkpoint.manifest import MANIFEST, FileRecord, Manifest, UnusableCheckpoint, parse_manifest
from firstlight.checkpoint.pieces import digest_of, verify_file
from firstlight.checkpoint.step_folder import candidates, step_folder, step_of
from firstlight.checkpoint.writer import STAGING_PREFIX
from firstlight.config.training import CheckpointConfig

_STEP = re.compile(r"(?:^|/)step-(\d{8})/?$")


class Objects(Protocol):
    """What is used of an fsspec file system."""

    def invalidate_cache(self) -> None: ...

    def ls(self, path: str, detail: bool) -> Sequence[Any]: ...

    def exists(self, path: str) -> bool: ...

    def cat_file(self, path: str) -> bytes: ...

    def pipe_file(self, path: str, value: bytes) -> Any: ...

    def put_file(self, local: str, path: str) -> Any: ...

    def get_file(self, path: str, local: str) -> Any: ...

    def open(self, path: str, mode: str) -> Any: ...

    def rm_file(self, path: str) -> Any: ...

    def rm(self, path: str, recursive: bool) -> Any: ...


class ObjectStore:
    """The checkpoints below `root`. Every method raises FirstlightError, with the place, when the store refuses."""

    def __init__(self, objects: Objects, root: str, *, url: str) -> None:
        self._objects = objects
        self._root = root.rstrip("/")
        self.url = url

    def steps(self) -> list[int]:
        """The steps with a manifest, the newest first."""
        with self._refusals("cannot be listed"):
            folders = self._folders()
            there = [step for step in folders if self._objects.exists(self._place(step, MANIFEST))]
        return sorted(there, reverse=True)

    def manifest(self, step: int, key: bytes | None) -> Manifest:
        """Raises UnusableCheckpoint when it is damaged or not signed by the key."""
        with self._refusals("cannot be read"):
            content = self._objects.cat_file(self._place(step, MANIFEST))
        return parse_manifest(content, f"{self.url}/{step_folder(step)}/{MANIFEST}", key)

    def put(self, folder: Path, manifest: Manifest) -> None:
        """Copy a published checkpoint. One of this step that is there already, and another, is replaced."""
        content = (folder / MANIFEST).read_bytes()
        place = self._place(manifest.step, MANIFEST)
        with self._refusals(f"does not take {folder.name}"):
            if self._objects.exists(place):
                if self._objects.cat_file(place) == content:
                    return
                self._objects.rm_file(place)
            for file in sorted(manifest.files):
                self._objects.put_file(str(folder / file), self._place(manifest.step, file))
            self._objects.pipe_file(place, content)

    def get(self, step: int, folder: Path, key: bytes | None) -> None:
        """Bring a checkpoint into `folder`, whole and verified or not at all. Raises UnusableCheckpoint."""
        disk = LocalDisk()
        staging = folder / (STAGING_PREFIX + step_folder(step))
        if staging.exists():
            disk.remove(staging)
        disk.make_folder(staging)
        manifest = self.manifest(step, key)
        for file, record in sorted(manifest.files.items()):
            with self._refusals(f"cannot be read into {staging}"):
                self._objects.get_file(self._place(step, file), str(staging / file))
            verify_file(staging / file, record)
            flush_folder(disk, staging / file)
        write_durably(disk, staging / MANIFEST, [memoryview(manifest.text().encode())])
        flush_folder(disk, staging)
        disk.rename(staging, folder / step_folder(step))
        flush_folder(disk, folder)

    def verify(self, step: int, key: bytes | None) -> Manifest:
        """Read every file of a checkpoint, piece by piece. Raises UnusableCheckpoint where one is not as recorded."""
        manifest = self.manifest(step, key)
        for file, record in sorted(manifest.files.items()):
            with self._refusals("cannot be read"), self._objects.open(self._place(step, file), "rb") as opened:
                self._verify_file(f"{self.url}/{step_folder(step)}/{file}", opened, record)
        return manifest

    def remove(self, step: int) -> None:
        """Remove a checkpoint, its manifest first."""
        with self._refusals(f"does not remove {step_folder(step)}"):
            if self._objects.exists(self._place(step, MANIFEST)):
                self._objects.rm_file(self._place(step, MANIFEST))
            self._objects.rm(f"{self._root}/{step_folder(step)}", recursive=True)

    def unfinished(self) -> list[int]:
        """Steps of which there are files, but no manifest."""
        with self._refusals("cannot be listed"):
            folders = self._folders()
        return sorted(set(folders) - set(self.steps()))

    def _verify_file(self, shown: str, opened: Any, record: FileRecord) -> None:
        for number, expected in enumerate(record.pieces):
            found = digest_of([memoryview(opened.read(record.piece_bytes))])
            if found != expected:
                begin = number * record.piece_bytes
                raise UnusableCheckpoint(
                    f"{shown} is changed from byte {begin} on: BLAKE3 {found}, expected {expected}"
                )
        if opened.read(1):
            raise UnusableCheckpoint(f"{shown} has more than the {record.num_bytes} bytes that were recorded")

    def _folders(self) -> list[int]:
        self._objects.invalidate_cache()
        if not self._objects.exists(self._root):
            return []
        found = (_STEP.search(str(name)) for name in self._objects.ls(self._root, detail=False))
        return [int(match[1]) for match in found if match]

    def _place(self, step: int, file: str) -> str:
        return f"{self._root}/{step_folder(step)}/{file}"

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        try:
            yield
        except FirstlightError:
            raise
        except Exception as error:  # noqa: BLE001  # every kind of store has errors of its own
            raise FirstlightError(f"{self.url} {what}: {type(error).__name__}: {error}") from error


class StoredCopies:
    """Copies every published checkpoint to a store, and keeps as many there as the configuration says."""

    def __init__(self, store: ObjectStore, config: CheckpointConfig) -> None:
        self._store = store
        self._config = config

    def __call__(self, folder: Path, manifest: Manifest) -> None:
        """Copy, then remove old ones; those that are still in the local folder stay."""
        self._store.put(folder, manifest)
        here = {step_of(path) for path in candidates(folder.parent)}
        every = self._config.keep_every_steps
        for step in self._store.steps()[self._config.keep_last :]:
            if step not in here and not (every and step % every == 0):
                self._store.remove(step)
        for step in self._store.unfinished():
            self._store.remove(step)


def fetch_newer(store: ObjectStore, folder: Path, key: bytes | None) -> None:
    """Bring the newest sound checkpoint of the store into `folder`, when it is newer than all that are there.

    Raises NoCheckpointError when there are some, none is sound, and `folder` has none either.
    """
    newest = max((step_of(path) for path in candidates(folder)), default=-1)
    steps = [step for step in store.steps() if step > newest]
    for step in steps:
        try:
            store.get(step, folder, key)
        except UnusableCheckpoint as error:
            get_logger().warning(f"checkpoint passed over: {error}")
        else:
            get_logger().info(f"checkpoint of step {step} brought from {store.url}")
            return
    if steps and newest < 0:
        raise NoCheckpointError(
            f"none of the {len(steps)} checkpoints in {store.url} is sound (reasons above); repair one, or use another "
            "checkpoint.copy_to"
        )


def remove_after(store: ObjectStore, step: int) -> None:
    """Remove copies of later steps, from which a start would go on. A store that refuses gives a warning."""
    try:
        for later in [one for one in store.steps() if one > step]:
            store.remove(later)
    except FirstlightError as error:
        get_logger().warning(str(error))


def open_store(url: str) -> ObjectStore:
    """The store at a URL that fsspec knows. Raises InputError when it does not, or a package is missing."""
    try:
        import fsspec
    except ImportError:
        raise InputError(f"checkpoint.copy_to = {url} needs fsspec: pip install 'firstlight[object-storage]'") from None
    try:
        is_local = fsspec.utils.get_protocol(url) in ("file", "local")
        objects, root = fsspec.core.url_to_fs(url, **({"auto_mkdir": True} if is_local else {}))
    except (ValueError, ImportError) as error:
        raise InputError(f"checkpoint.copy_to = {url} cannot be used: {error}") from None
    return ObjectStore(objects, root, url=url.rstrip("/"))
