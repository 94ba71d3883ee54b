"""How causal attention on CPU is cut into blocks of queries (`ops.attention_cpu`); without torch, for plans as well."""

from collections.abc import Iterator

BLOCK = 64
"""Queries of a block: more compute more that is masked, fewer make smaller products."""

MAX_LENGTH = 512
"""Up to this length the softmax, which is kept for the backward pass, is hardly larger than what it is made of. Beyond,
it would have to be computed again, and torch's kernel, which does so, is as fast."""


def spans(length: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each block of a sequence."""
    return ((begin, min(begin + BLOCK, length)) for begin in range(0, length, BLOCK))


def num_scores(length: int) -> int:
    """Scores that are computed, and kept, for each head of a sequence: a block's queries see keys up to its end."""
    return sum((end - begin) * end for begin, end in spans(length))
