"""Megatron's `--split`: which sequences are for training, validation and testing."""

import re

from firstlight.base.errors import InputError

NUM_PARTS = 3


def parse_split(text: str) -> list[tuple[float, float] | None]:
    """Three (begin, end) shares of the whole, None for a part without share, from text such as "969,30,1".

    The sums are Megatron's, in its order of additions, for the last bits to be the same.
    Raises InputError when there are more than three numbers, or they add up to nothing.
    """
    numbers = re.findall(r"[.0-9]+", text)
    try:
        weights = [float(number) for number in numbers]
    except ValueError:
        raise InputError(f'data.train.split = "{text}" is not made of numbers; write for example "969,30,1"') from None
    total = sum(weights)
    if len(weights) > NUM_PARTS or total <= 0:
        raise InputError(
            f'data.train.split = "{text}": give one to three shares, for training, validation and test, '
            'not all zero, for example "969,30,1"'
        )
    shares = [weight / total for weight in weights] + [0.0] * (NUM_PARTS - len(weights))
    edges = [0.0]
    for share in shares:
        edges.append(edges[-1] + share)
    return [(begin, end) if end > begin else None for begin, end in zip(edges, edges[1:], strict=False)]


def split_bounds(split: list[tuple[float, float] | None], num_sequences: int) -> list[range | None]:
    """The sequence ids of each part: edges are rounded half to even."""
    return [part and range(*(round(edge * float(num_sequences)) for edge in part)) for part in split]
