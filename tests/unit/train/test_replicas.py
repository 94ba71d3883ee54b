"""Who holds other bytes than the others is named. Ranks are threads here, processes in faults/test_replicas.py."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.multi_threaded_pg import _install_threaded_pg, _uninstall_threaded_pg

from firstlight.base.peers import Alone
from firstlight.train.replicas import ReplicaCheck

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture
def threads() -> Iterator[None]:
    world = _install_threaded_pg()
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    yield
    torch._C._distributed_c10d._set_thread_isolation_mode(False)
    _uninstall_threaded_pg()
    del world


def on_ranks(tensors: list[Mapping[str, Tensor]]) -> list[str | None]:
    """What the check says on each rank that has these."""
    store = dist.HashStore()

    def one(rank: int) -> str | None:
        dist.init_process_group("threaded", rank=rank, world_size=len(tensors), store=store)
        try:
            return ReplicaCheck(lambda tensor: 1 if tensor.ndim == 2 else 2, Alone(), CPU).find(tensors[rank])
        finally:
            dist.destroy_process_group()

    with ThreadPoolExecutor(len(tensors)) as pool:
        return list(pool.map(one, range(len(tensors))))


def state(value: float = 1.0, **others: Tensor) -> dict[str, Tensor]:
    return {"model/norm.weight": torch.full((5,), value), "model/bias": torch.zeros(3), **others}


def test_the_same_everywhere() -> None:
    assert on_ranks([state(), state(), state()]) == [None] * 3


def test_one_of_three() -> None:
    what = "rank(s) 1 hold values of model/norm.weight that are not those of 2 others"
    assert on_ranks([state(), state(1.0000001), state()]) == [what] * 3


def test_one_of_two() -> None:
    what = "ranks 0, 1 hold different values of model/norm.weight, and no value is that of most"
    assert on_ranks([state(), state(float("nan"))]) == [what] * 2


def test_what_one_rank_alone_holds_and_tensors_of_other_stages() -> None:
    own = [state(shard=torch.full((2, 2), float(rank))) for rank in range(3)]
    stage = {f"model/later.{number}": torch.ones(2) for number in range(4)}
    assert on_ranks([*own, stage, stage]) == [None] * 5
    wrong = stage | {"model/later.3": torch.tensor([1.0, -1.0])}
    what = "ranks 3, 4 hold different values of model/later.3, and no value is that of most"
    assert on_ranks([*own, stage, wrong]) == [what] * 5
