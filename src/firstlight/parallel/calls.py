"""The collectives and messages that a step really calls, read from the operators that reach the process groups."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d as c10d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_KINDS: Mapping[str, str] = {
    "_allgather_base_": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "all_gather_into_tensor_out": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "allreduce_": "all_reduce",
    "all_reduce": "all_reduce",
    "all_reduce_": "all_reduce",
    "alltoall_base_": "all_to_all",
    "all_to_all_single": "all_to_all",
    "send": "send",
    "recv_": "receive",
}
_NO_CALL = ("wait_tensor", "_wrap_tensor_autograd", "monitored_barrier_", "barrier")

Call = tuple[str, tuple[int, ...], int]
"""Kind, ranks of the group, and the larger of the bytes that the call takes and gives."""


class Counted(TorchDispatchMode):
    """Notes every collective over more than one rank that is called in the block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        namespace, _, name = func._schema.name.partition("::")
        if namespace in ("c10d", "_c10d_functional") and name not in _NO_CALL:
            ranks = _ranks_of(args)
            if len(ranks) > 1:
                self.calls.append((_KINDS[name], ranks, max(_size(args), _size(out))))
        return out

    def totals(self) -> dict[tuple[str, tuple[int, ...]], tuple[int, int]]:
        """Calls and bytes of each kind on each group."""
        counts: Counter[tuple[str, tuple[int, ...]]] = Counter()
        sizes: Counter[tuple[str, tuple[int, ...]]] = Counter()
        for kind, ranks, size in self.calls:
            counts[kind, ranks] += 1
            sizes[kind, ranks] += size
        return {key: (counts[key], sizes[key]) for key in counts}


def _ranks_of(args: Sequence[Any]) -> tuple[int, ...]:
    for argument in args:
        if isinstance(argument, str) and argument in c10d._world.pg_names.values():
            group = c10d._resolve_process_group(argument)  # type: ignore[attr-defined, arg-type]
            return tuple(dist.get_process_group_ranks(group))
        if isinstance(argument, torch.ScriptObject) and "ProcessGroup" in str(argument._type()):
            group = dist.ProcessGroup.unbox(argument)
            return tuple(dist.get_process_group_ranks(group))
    raise AssertionError(f"no group among {args}")


def _size(values: Any) -> int:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return max((tensor.numel() * tensor.element_size() for tensor in tensors), default=0)
