"""How often each token is in a data set."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_NAMED = 100


def histogram_facts(counts: NDArray[np.int64], text_of: Callable[[int], str]) -> dict[str, Any]:
    """Of counts [vocabulary size]: how many ids are there at all, and the 100 most frequent with counts and texts."""
    order = np.argsort(-counts, kind="stable")[:_MOST_NAMED].tolist()
    return {
        "distinct": int(np.count_nonzero(counts)),
        "most_frequent": [{"id": id_, "count": int(counts[id_]), "text": text_of(id_)} for id_ in order if counts[id_]],
    }


def histogram_file(counts: NDArray[np.int64]) -> bytes:
    """The counts as NumPy's .npy, int64 [vocabulary size]."""
    buffer = io.BytesIO()
    np.save(buffer, counts, allow_pickle=False)
    return buffer.getvalue()
