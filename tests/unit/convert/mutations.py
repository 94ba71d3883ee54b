"""Files damaged at random."""

import random


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One bit flipped, bytes cut off, left out, put in, or overwritten."""
    changed = bytearray(content)
    at = rng.randrange(len(changed))
    match rng.randrange(5):
        case 0:
            changed[at] ^= 1 << rng.randrange(8)
        case 1:
            del changed[at:]
        case 2:
            del changed[at : at + rng.randrange(1, 9)]
        case 3:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        case _:
            end = min(len(changed), at + rng.randrange(1, 40))
            changed[at:end] = rng.randbytes(end - at)
    return bytes(changed)
