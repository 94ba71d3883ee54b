"""What Slurm and the MPIs set is understood as a place among the ranks."""

from collections.abc import Mapping

import pytest

from firstlight.base.errors import InputError
from firstlight.base.started_by import Start, started_by
from firstlight.base.world import World

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "gpu[03-05,09],cpu1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


def test_a_task_of_slurm_has_a_place() -> None:
    assert started_by(SLURM) == Start(rank=5, size=7, local_rank=1, local_size=2, address="gpu03", port=24711)
    own = SLURM | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "9"}
    assert started_by(own) == Start(rank=5, size=7, local_rank=1, local_size=2, address="10.0.0.1", port=9)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("a", "a"),
        ("a,b", "a"),
        ("n[1-2]", "n1"),
        ("r[01-02]n[10,12]x", "r01n10x"),
        ("n[7]", "n7"),
        ("n[3,5-9],z", "n3"),
    ],
)
def test_the_first_of_slurms_hosts_is_found(hosts: str, first: str) -> None:
    start = started_by(SLURM | {"SLURM_STEP_NODELIST": hosts})
    assert start is not None
    assert start.address == first


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"},  # the batch script itself
        SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_NODEID": "0"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_one_process_has_no_others(variables: Mapping[str, str]) -> None:
    assert started_by(variables) is None


def test_processes_of_open_mpi_and_of_hydra_have_a_place() -> None:
    place = OPEN_MPI | {"MASTER_ADDR": "node0"}
    assert started_by(place) == Start(rank=3, size=4, local_rank=1, local_size=2, address="node0", port=29500)
    hydra = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
    assert started_by(hydra) == Start(rank=1, size=2, local_rank=1, local_size=2, address="127.0.0.1", port=29500)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (OPEN_MPI, "MASTER_ADDR is not set"),
        (SLURM | {"SLURM_NODEID": "4"}, "SLURM_NODEID = 4 is not one of the 4 nodes"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "two"}, "'two' is not understood"),
        (SLURM | {"SLURM_LOCALID": "x"}, "SLURM_LOCALID = 'x' is not a number"),
        (SLURM | {"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST is not set"),
    ],
)
def test_what_is_missing_is_named(variables: Mapping[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        started_by(variables)


def test_torchelastic_goes_before_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    world = World.from_environment()
    assert (world.rank, world.size, world.serves_store) == (5, 7, True)
    assert world.master_store is not None
    assert world.master_store.port == 24711
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    world = World.from_environment()
    assert (world.rank, world.size, world.serves_store) == (1, 2, False)
