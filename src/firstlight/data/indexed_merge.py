"""Several Megatron data sets into one, as Megatron's merge does it, in constant memory."""

from collections.abc import Sequence
from pathlib import Path

from firstlight.base.errors import InputError
from firstlight.data.indexed import IndexedDataset
from firstlight.data.indexed_copy import DocumentRange, write_sets


def merge(prefixes: Sequence[Path], output: Path) -> None:
    """Write the documents of all `prefixes`, in their order, to `<output>.bin` and `.idx`.

    Raises InputError when a set is damaged, dtypes differ, only some have modes (of multimodal sets), or the output is
    one of the inputs.
    """
    if output.absolute() in {prefix.absolute() for prefix in prefixes}:
        raise InputError(f"{output} is one of the data sets to merge; choose another output")
    write_sets({output: [DocumentRange.whole(IndexedDataset.open(prefix)) for prefix in prefixes]})
