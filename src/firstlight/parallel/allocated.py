"""Follows the memory that the tensors of a block of code take."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocated(TorchDispatchMode):
    """Bytes of the memory that the tensors of `held` and operations inside of the block have: `now`, and the `most` at
    any time. What FSDP lets go of by making it empty counts as gone."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}
        """By the address of the storage, as long as it lives."""
        self._resize = torch.UntypedStorage.resize_
        for tensor in held:
            self._take(tensor.untyped_storage())

    def __enter__(self) -> "Allocated":
        # No operation of torch's: a dispatch mode does not see it (torch.distributed._tools.mem_tracker does the same).
        resize = self._resize

        def followed(storage: torch.UntypedStorage, size: int) -> Any:
            out = resize(storage, size)
            self._take(storage)
            return out

        setattr(torch.UntypedStorage, "resize_", followed)  # noqa: B010  # mypy refuses the assignment
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)  # type: ignore[no-untyped-call]
        setattr(torch.UntypedStorage, "resize_", self._resize)  # noqa: B010

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                # A DTensor's own storage has the size of the whole tensor, and no memory.
                self._take((leaf._local_tensor if isinstance(leaf, DTensor) else leaf).untyped_storage())
        return out

    def _take(self, storage: torch.UntypedStorage) -> None:
        """A storage as it is now: new, known, or known with another size."""
        place, size = storage._cdata, storage.nbytes()
        known = self._sizes.get(place)
        if known == size:
            return
        if known is None:
            weakref.finalize(storage, self._let_go, place)
        self._sizes[place] = size
        self.now += size - (known or 0)
        self.most = max(self.most, self.now)

    def _let_go(self, place: int) -> None:
        self.now -= self._sizes.pop(place)
