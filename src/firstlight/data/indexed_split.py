"""One Megatron data set into several, of whole documents in their order."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from firstlight.base.errors import InputError
from firstlight.data.indexed import IndexedDataset
from firstlight.data.indexed_copy import DocumentRange, write_sets


def split(prefix: Path, output: Path, cuts: Sequence[int]) -> list[Path]:
    """Write documents `cuts[k]` to `cuts[k + 1]` of `prefix` to `<output>_<k>.bin` and `.idx`, for each k.

    Returns the prefixes written; merged in this order they give the set again, byte for byte if its sequences lie one
    after the other. Memory is constant. Raises InputError when the set is damaged or the output would overwrite it.
    """
    one = IndexedDataset.open(prefix)
    width = len(str(len(cuts) - 2))
    outputs = [Path(f"{output}_{number:0{width}}") for number in range(len(cuts) - 1)]
    if prefix.absolute() in {path.absolute() for path in outputs}:
        raise InputError(f"{prefix} would be overwritten by one of its parts; choose another --output than {output}")
    ranges = [DocumentRange(indexed=one, start=start, stop=stop) for start, stop in pairwise(cuts)]
    write_sets({path: [part] for path, part in zip(outputs, ranges, strict=True)})
    return outputs


def cuts_of_shares(num_documents: int, shares: Sequence[float]) -> list[int]:
    """Where to cut for parts that are to each other as `shares` are: [len(shares) + 1], from 0 to `num_documents`.

    Raises InputError when a share is not a number above 0, or a part would have no document.
    """
    if not shares or not all(share > 0 and math.isfinite(share) for share in shares):
        raise InputError(f"shares {_listed(shares)}: every part needs a share above 0, for example --shares 9,1")
    total = math.fsum(shares)
    cuts = [0, *(round(num_documents * math.fsum(shares[:k]) / total) for k in range(1, len(shares))), num_documents]
    if any(stop <= start for start, stop in pairwise(cuts)):
        raise InputError(
            f"{num_documents} documents cannot be cut into {len(shares)} parts of shares {_listed(shares)} "
            "with a document in each; ask for fewer or more even parts"
        )
    return cuts


def cuts_of_counts(num_documents: int, counts: Sequence[int]) -> list[int]:
    """Where to cut for parts of so many documents; what is left over is a last part.

    Raises InputError when a count is below 1 or they add up to more than there is.
    """
    if not counts or min(counts) < 1 or sum(counts) > num_documents:
        raise InputError(
            f"--documents {_listed(counts)}: needs numbers from 1 that add up to at most the {num_documents} documents"
        )
    cuts = list(accumulate(counts, initial=0))
    return cuts if cuts[-1] == num_documents else [*cuts, num_documents]


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
