"""A key of a MindFormers file that is given another value on the command line."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Change:
    """`key` is dotted, `text` is YAML, `origin` is how it was written: errors name it."""

    key: str
    text: str
    origin: str
