"""numpy's legacy shuffle, as Megatron's orders use it; several times as fast where the extension is built."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.data import native

_LARGEST_UINT32 = 2**32 - 1
_TAKEN = (np.dtype(np.int32), np.dtype(np.uint32), np.dtype(np.int64))


def shuffle(random: np.random.RandomState, values: NDArray[Any]) -> None:
    """Shuffle `values` [n] in place: the same values and the same next state as `random.shuffle(values)`."""
    compiled = native.COMPILED
    # Beyond 32 bits numpy draws 64 at a time; nothing that large is worth a second path.
    if compiled is None or values.dtype not in _TAKEN or len(values) > _LARGEST_UINT32:
        random.shuffle(values)
        return
    state = random.get_state(legacy=False)
    key = np.array(state["state"]["key"], np.uint32)
    position = compiled.shuffle(values, key, int(state["state"]["pos"]))
    random.set_state({**state, "state": {"key": key, "pos": position}})
