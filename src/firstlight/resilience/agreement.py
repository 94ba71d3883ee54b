"""What must be the same on all ranks before the first step, and which of them differ."""

import hashlib
from collections import Counter
from collections.abc import Mapping

from firstlight.base.errors import InputError
from firstlight.base.peers import Peers

_EXACT_DIGITS = 13
"""Hexadecimal digits of a hash that a float64 holds exactly."""


def require_same(peers: Peers, facts: Mapping[str, str]) -> None:
    """Compare texts by name over all ranks; a collective, in which every rank has the same names.

    Raises InputError on every rank with each fact that differs, and the ranks that have it otherwise than most.
    """
    lines = [line for name, text in facts.items() if (line := _difference(peers, name, text))]
    if lines:
        raise InputError("the ranks are not alike:\n" + "\n".join(lines))


def _difference(peers: Peers, name: str, text: str) -> str:
    numbers = [0.0] * peers.size
    numbers[peers.rank] = float(int(hashlib.sha256(text.encode()).hexdigest()[:_EXACT_DIGITS], 16))
    everywhere = peers.sum(numbers)
    usual, _ = Counter(everywhere).most_common(1)[0]
    others = [str(rank) for rank, number in enumerate(everywhere) if number != usual]
    return f"  {name} of rank(s) {', '.join(others)} is not that of the others" if others else ""
