"""The secret that signs manifests: without it nobody can make a checkpoint, or change one unseen."""

import hashlib
import hmac
from pathlib import Path

from firstlight.base.errors import InputError

_LEAST_BYTES = 32


def read_key(path: Path | None) -> bytes | None:
    """The secret in a file, its last line break left out; None without a file. Raises InputError."""
    if path is None:
        return None
    try:
        key = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InputError(f"checkpoint.key_file = {path} cannot be read: {error}") from None
    if len(key) < _LEAST_BYTES:
        raise InputError(
            f"checkpoint.key_file = {path} holds {len(key)} bytes; use {_LEAST_BYTES} or more that nobody can guess, "
            f"such as those of `openssl rand -hex {_LEAST_BYTES}`"
        )
    return key


def signature_of(digest: str, key: bytes) -> str:
    """HMAC-SHA256 (RFC 2104) of a digest, both as hexadecimal text."""
    return hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()


def fault_of(signature: str, digest: str, key: bytes | None) -> str | None:
    """Why a signature cannot be accepted; None where nothing speaks against it."""
    if key is None:
        return "is signed; name the file of its key in checkpoint.key_file" if signature else None
    if not signature:
        return "is not signed, and checkpoint.key_file asks for that"
    if not hmac.compare_digest(signature, signature_of(digest, key)):
        return "is not signed by the key in checkpoint.key_file: that is another key, or somebody changed the manifest"
    return None
