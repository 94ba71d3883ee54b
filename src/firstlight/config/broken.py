"""What a rule says when it is broken."""

from dataclasses import dataclass

from firstlight.config.source import KeyPath


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A broken rule: what is wrong and what would do, and the key to point at."""

    path: KeyPath
    message: str
