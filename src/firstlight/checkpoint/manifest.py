"""The manifest: what a checkpoint holds. Written last, so a folder without one is no checkpoint."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from firstlight.base.errors import FirstlightError
from firstlight.checkpoint.key import fault_of, signature_of

MANIFEST = "manifest.json"
FORMAT = "firstlight-checkpoint"
VERSION = 3
PIECE_BYTES = 1 << 24
"""Pieces that files are hashed in: small enough to check little more than is read, large enough to read at once."""


class UnusableCheckpoint(FirstlightError):
    """A checkpoint that cannot be loaded: missing, torn or changed files, or another model's tensors."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardRecord(_Record):
    """One block of a tensor: its file (the tensor's name is its key there), where it starts, and its shape."""

    file: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]


class TensorRecord(_Record):
    """A tensor: dtype as safetensors writes it, global shape, and the blocks that cover it."""

    dtype: str
    shape: tuple[int, ...]
    shards: tuple[ShardRecord, ...]


class FileRecord(_Record):
    """Size of a file and BLAKE3 of each of its pieces of `piece_bytes`, by which a changed byte is noticed."""

    num_bytes: Annotated[int, Field(ge=0)]
    piece_bytes: Annotated[int, Field(ge=1)]
    pieces: tuple[str, ...]

    @model_validator(mode="after")
    def _pieces_are_the_file(self) -> "FileRecord":
        if len(self.pieces) != -(-self.num_bytes // self.piece_bytes):
            raise ValueError(f"{len(self.pieces)} pieces of {self.piece_bytes} are no file of {self.num_bytes} bytes")
        return self


class Health(_Record):
    """What was noticed while saving: weights with values that are not finite, by name."""

    not_finite: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether a run may go on from it."""
        return not self.not_finite


class Part(_Record):
    """What one rank wrote."""

    files: dict[str, FileRecord]
    tensors: dict[str, TensorRecord]
    not_finite: tuple[str, ...] = ()


class Manifest(_Record):
    """Everything about a checkpoint but the tensors' values. `state` holds counters, data position and the like."""

    format: str = FORMAT
    version: int = VERSION
    step: int
    world_size: int
    state: dict[str, Any]
    configuration: dict[str, Any]
    files: dict[str, FileRecord]
    tensors: dict[str, TensorRecord]
    health: Health = Health()
    digest: str = ""
    """SHA-256 of all the other fields, so that a changed digit here is noticed as well."""

    signature: str = ""
    """HMAC-SHA256 of the digest, where there is a key."""

    def sealed(self, key: bytes | None = None) -> "Manifest":
        """The same with its digest, signed where there is a key."""
        digest = self._content_digest()
        return self.model_copy(update={"digest": digest, "signature": signature_of(digest, key) if key else ""})

    def is_intact(self) -> bool:
        """Whether the digest is that of the content."""
        return self.digest == self._content_digest()

    @property
    def is_healthy(self) -> bool:
        """Whether a run may go on from it, as far as is known."""
        return self.health.is_good

    def text(self) -> str:
        """The content of the file."""
        return self.model_dump_json(indent=1)

    def _content_digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"digest", "signature"}).encode()).hexdigest()


def join_parts(manifest: Manifest, parts: list[Part], key: bytes | None = None) -> Manifest:
    """`manifest` with the files and tensors of all ranks, sealed; the blocks of one tensor come together."""
    files: dict[str, FileRecord] = {}
    tensors: dict[str, TensorRecord] = {}
    for part in parts:
        files.update(part.files)
        for name, record in part.tensors.items():
            known = tensors.get(name)
            shards = (*known.shards, *record.shards) if known else record.shards
            tensors[name] = record.model_copy(update={"shards": shards})
    health = Health(not_finite=tuple(sorted({name for part in parts for name in part.not_finite})))
    return manifest.model_copy(update={"files": files, "tensors": tensors, "health": health}).sealed(key)


def read_manifest(folder: Path, key: bytes | None = None) -> Manifest:
    """The manifest of a checkpoint folder, held to its digest and signature. Raises UnusableCheckpoint."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UnusableCheckpoint(f"{path} is missing; the checkpoint was never finished") from None
    except OSError as error:
        raise UnusableCheckpoint(f"{path} cannot be read: {error}") from None
    return parse_manifest(content, str(path), key)


def parse_manifest(content: bytes, path: str, key: bytes | None = None) -> Manifest:
    """The same from what was read at `path`."""
    try:
        manifest = Manifest.model_validate(json.loads(content.decode("utf-8")))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnusableCheckpoint(f"{path} cannot be read: {error}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(key) for key in fault["loc"])
        raise UnusableCheckpoint(f"{path} is damaged: {where}: {fault['msg']}") from None
    if (manifest.format, manifest.version) != (FORMAT, VERSION):
        raise UnusableCheckpoint(
            f"{path} is {manifest.format} version {manifest.version}; this program reads {FORMAT} version {VERSION}"
        )
    if not manifest.is_intact():
        raise UnusableCheckpoint(f"{path} is changed: its content does not have the digest {manifest.digest}")
    fault_of_signature = fault_of(manifest.signature, manifest.digest, key)
    if fault_of_signature:
        raise UnusableCheckpoint(f"{path} {fault_of_signature}")
    return manifest
