"""The compiled parts, `order.cpp` and `gather.cpp`, where they are built; who uses them has an equal way in numpy.

The extension is optional: a machine without a compiler installs the package all the same.
"""

from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

VERSION = 2
"""Equals kVersion of both; an extension left over from other sources is not used."""


class Builders(Protocol):
    """What the extension offers. Arrays are contiguous, and changed in place where the text says so."""

    def shuffle(self, values: NDArray[Any], key: NDArray[np.uint32], position: int) -> int:
        """Shuffle `values` [n], n < 2**32, as RandomState would; changes `key` [624]; returns the position in it."""

    def sample_index(
        self,
        lengths: NDArray[np.int32],
        document_index: NDArray[Any],
        rows: NDArray[Any],
        sequence_length: int,
        extra_token: int,
    ) -> int:
        """Fill rows[1:], int32 or int64 [M + 1, 2], as `build_sample_index` does; returns how many it filled."""

    def blend(
        self,
        weights: NDArray[np.float64],
        limits: NDArray[np.int64],
        counts: NDArray[np.int64],
        first: int,
        sources: NDArray[np.int16],
        numbers: NDArray[np.int64],
    ) -> None:
        """Fill `sources` and `numbers` [n] with a block of a blend from sample `first` on; raises `counts`."""


def _load(name: str) -> Any:
    try:
        module: Any = import_module(f"firstlight.data.native.{name}")
    except ImportError:
        return None
    return module if module.VERSION == VERSION else None


COMPILED: Builders | None = _load("_order")
"""None where the extension is not built: then numpy does the work."""
GATHER: Any = _load("_gather")
"""The module of gather.cpp, a function for each dtype; None where it is not built."""


def describe() -> str:
    """Which way is used, for the log."""
    return "compiled builders" if COMPILED else "numpy builders (the extension firstlight.data.native is not built)"
