"""Counts bytes that operators have made and that something still holds: activations, gradients, what is gathered."""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HeldBytes(TorchDispatchMode):
    """Watches every operator inside of its block, also those of the backward pass and of collectives.

    Memory counts once, whoever shares it, and only while it is there: what FSDP frees under a living tensor does not.
    `peak` is the most at once, where it is tracked.
    """

    def __init__(self, *, tracks_peak: bool = False) -> None:
        super().__init__()
        self.peak = 0
        self._tracks_peak = tracks_peak
        self._most = 0
        self._made: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {local(leaf).untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if is_here(leaf)}
        for leaf in tree_leaves(out):
            if is_here(leaf) and local(leaf).untyped_storage()._cdata not in given:
                reference = StorageWeakRef(local(leaf).untyped_storage())
                self._made[reference.cdata] = reference
                self._most += local(leaf).untyped_storage().nbytes()
        # Counting takes long: only where there can be more than ever. FSDP gives memory to tensors that had none.
        if self._tracks_peak and (self._most > self.peak or func.namespace == "fsdp"):
            self.peak = max(self.peak, self.now())
        return out

    def now(self) -> int:
        """Bytes that are held at this moment."""
        sizes = {key: size_of(reference) for key, reference in self._made.items()}
        self._made = {key: self._made[key] for key, size in sizes.items() if size is not None}
        self._most = sum(size or 0 for size in sizes.values())
        return self._most


def size_of(reference: StorageWeakRef) -> int | None:
    """Bytes of a storage; None when it is gone."""
    storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
    return None if storage is None else storage.nbytes()


def local(tensor: Tensor) -> Tensor:
    """The plain tensor inside of one that is distributed or still arriving."""
    for inside in ("_local_tensor", "elem"):
        tensor = getattr(tensor, inside, tensor)
    return tensor


def is_here(leaf: Any) -> bool:
    """Whether `leaf` is a tensor with memory."""
    return isinstance(leaf, Tensor) and local(leaf).device.type != "meta"
