"""The process group of the run, and the collectives that other rooms are handed."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C import _distributed_c10d as c10d
from torch._C._distributed_c10d import FileStore, HashStore, PrefixStore, Store, TCPStore

from firstlight.base.errors import InputError
from firstlight.base.listening import listening
from firstlight.base.peers import Alone, Peers
from firstlight.base.traces import answer_when_asked
from firstlight.base.world import MasterStore, World
from firstlight.parallel.device import backend_for

_TIMEOUT = timedelta(minutes=10)


class ProcessGroup:
    """Peers over torch.distributed: small float64 tensors, never objects."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def barrier(self) -> None:
        dist.barrier()

    def sum(self, values: Sequence[float]) -> list[float]:
        out: list[float] = self._reduced(list(values)).tolist()
        return out

    def all_true(self, value: bool, /) -> bool:
        return self.sum([float(value)])[0] == self.size

    def any_true(self, value: bool, /) -> bool:
        return self.sum([float(value)])[0] > 0

    def _reduced(self, values: list[float]) -> Tensor:
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor)
        return tensor


@contextmanager
def joined(world: World, device: torch.device, *, also_alone: bool = False) -> Iterator[Peers]:
    """Join the other ranks for the length of the block; a single process has none to join, and a group of its own only
    with `also_alone`.

    Under our own launcher the ranks of one node meet in a folder, so nothing listens, and those of several in the store
    that the launcher of the first node serves; under Slurm and MPI in one that the first rank serves; under another
    launcher as its environment says. Raises InputError when the first rank cannot serve it.
    What the block has built on the group must be out of reach when it ends.
    """
    if world.size == 1 and not also_alone:
        yield Alone()
        return
    store = _store(world)
    dist.init_process_group(backend_for(device), store=store, rank=world.rank, world_size=world.size, timeout=_TIMEOUT)
    if world.store_folder is not None and world.store_folder.is_dir():
        answer_when_asked(world.store_folder, world.rank, _last_collectives)
    try:
        yield ProcessGroup(device)
    finally:
        # Sharded modules hold the group in reference cycles. Left to the interpreter's exit, its threads end in
        # `terminate called without an active exception` (one of five exits of a small run under load).
        gc.collect()
        dist.destroy_process_group()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all ranks, in place; the tensor itself when there is one rank."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def largest_over_ranks(tensor: Tensor) -> Tensor:
    """The element-wise maximum over all ranks, in place; the tensor itself when there is one rank."""
    if dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def _last_collectives() -> bytes:
    """What torch's flight recorder holds, as JSON: NCCL has one of its own, where torch is built with it."""
    # torch's stubs have neither
    of_gloo: Callable[[], bytes] = c10d._dump_fr_trace_json  # type: ignore[attr-defined]
    dump = getattr(c10d, "_dump_nccl_trace_json", None) if dist.get_backend() == "nccl" else None
    return of_gloo() if dump is None else bytes(dump())


def _store(world: World) -> Store | None:
    """Where the ranks meet; None: as the environment says."""
    if world.size == 1:
        return HashStore()
    if world.master_store is not None:
        serves = world.serves_store and world.rank == 0
        return PrefixStore("ranks", _served(world.master_store) if serves else _reached(world.master_store))
    if world.store_folder is None:
        return None
    # A new file for each restart: the old one holds the addresses of ranks that are gone.
    return FileStore(str(world.store_folder / f"ranks-{world.restart_count}"), world.size)


def _reached(place: MasterStore) -> TCPStore:
    wait = timedelta(seconds=place.join_seconds)
    return TCPStore(place.address, place.port, None, is_master=False, timeout=wait)


def _served(place: MasterStore) -> TCPStore:
    try:
        taken = listening(place.address, place.port)
    except OSError as error:
        raise InputError(
            f"rank 0 cannot listen at {place.address}:{place.port}: {error}; MASTER_ADDR must be an address of its "
            "node, and MASTER_PORT free there"
        ) from None
    return TCPStore(
        place.address,
        place.port,
        None,
        is_master=True,
        timeout=timedelta(seconds=place.join_seconds),
        wait_for_workers=False,
        master_listen_fd=taken.detach(),
    )
