"""Documents that cannot be read: where and why, and what was left out because of it."""

from collections.abc import Iterable, Iterator

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger

_MOST_LOGGED = 20
_MOST_KEPT = 10_000


class BadDocumentError(InputError):
    """One document (or the rest of one file) is not what it should be; the message begins with `file:line`."""


class BrokenBytesError(Exception):
    """Compressed bytes that do not decompress; whoever reads them knows the place."""


class Omissions:
    """The documents that were left out: all are counted, the first of them named."""

    def __init__(self, num_documents: int = 0, messages: Iterable[str] = ()) -> None:
        self.num_documents = num_documents
        self.messages = list(messages)

    def add(self, fault: BadDocumentError) -> None:
        """Count one; the first few are logged, the first ten thousand kept."""
        self.num_documents += 1
        if self.num_documents <= _MOST_LOGGED:
            get_logger().warning("left out: %s", fault)
        elif self.num_documents == _MOST_LOGGED + 1:
            get_logger().warning("more is left out; the metadata will say what")
        if len(self.messages) < _MOST_KEPT:
            self.messages.append(str(fault))


def broken(fault: BadDocumentError) -> Iterator[Iterable[str]]:
    """The sequences of a document that cannot be read: asking for the first raises `fault`."""
    raise fault
    yield ()
