"""How Slurm and MPI tell a process where it stands, in torchelastic's words.

Sources: the output environment variables of Slurm's srun(1); section 11.1 of Open MPI's documentation; Hydra's PMI
variables, which MPICH and Intel MPI set.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from firstlight.base.errors import InputError

_FIRST_PORT, _NUM_PORTS = 20000, 10000
"""Where the ports lie that jobs of Slurm take, by their number: two jobs may share a node."""

_MPI_PORT = 29500
"""Without MASTER_PORT; torch's own."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A process among others, and where all of them can meet: the first of them serves the store there."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int


@dataclass(frozen=True, kw_only=True)
class _Names:
    """Of the variables of an MPI."""

    rank: str
    size: str
    local_rank: str
    local_size: str


_MPIS = (
    _Names(
        rank="OMPI_COMM_WORLD_RANK",
        size="OMPI_COMM_WORLD_SIZE",
        local_rank="OMPI_COMM_WORLD_LOCAL_RANK",
        local_size="OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    _Names(rank="PMI_RANK", size="PMI_SIZE", local_rank="MPI_LOCALRANKID", local_size="MPI_LOCALNRANKS"),
)


def started_by(variables: Mapping[str, str]) -> Start | None:
    """What srun or an MPI says; None where neither has started several processes.

    MASTER_ADDR and MASTER_PORT go before what is derived. Raises InputError when a variable is missing or no number.
    """
    # An sbatch script and the shell of an allocation have SLURM_PROCID, too, but only srun says how many tasks it made.
    if "SLURM_STEP_NUM_TASKS" in variables and "SLURM_PROCID" in variables:
        start = _slurm(variables)
        return start if start.size > 1 else None
    for names in _MPIS:
        if names.rank in variables and names.size in variables:
            return _mpi(variables, names) if _number(variables, names.size) > 1 else None
    return None


def _slurm(variables: Mapping[str, str]) -> Start:
    tasks = _tasks_of_nodes(variables.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    node = _number(variables, "SLURM_NODEID")
    if node >= len(tasks):
        raise InputError(f"SLURM_NODEID = {node} is not one of the {len(tasks)} nodes in SLURM_STEP_TASKS_PER_NODE")
    job = _number(variables, "SLURM_JOB_ID")
    return Start(
        rank=_number(variables, "SLURM_PROCID"),
        size=_number(variables, "SLURM_STEP_NUM_TASKS"),
        local_rank=_number(variables, "SLURM_LOCALID"),
        local_size=tasks[node],
        address=variables.get("MASTER_ADDR") or _first_host(variables.get("SLURM_STEP_NODELIST", "")),
        port=_port(variables, _FIRST_PORT + job % _NUM_PORTS),
    )


def _mpi(variables: Mapping[str, str], names: _Names) -> Start:
    size, local_size = _number(variables, names.size), _number(variables, names.local_size)
    address = variables.get("MASTER_ADDR") or ("127.0.0.1" if local_size == size else "")
    if not address:
        raise InputError(
            f"{names.size} = {size} processes are on several nodes, and MASTER_ADDR is not set, so they cannot meet; "
            "give mpirun the address of the first node: -x MASTER_ADDR=..."
        )
    return Start(
        rank=_number(variables, names.rank),
        size=size,
        local_rank=_number(variables, names.local_rank),
        local_size=local_size,
        address=address,
        port=_port(variables, _MPI_PORT),
    )


def _port(variables: Mapping[str, str], default: int) -> int:
    return _number(variables, "MASTER_PORT") if "MASTER_PORT" in variables else default


def _tasks_of_nodes(text: str) -> list[int]:
    """`2(x3),1` is 2, 2, 2, 1."""
    tasks: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise InputError(f"SLURM_STEP_TASKS_PER_NODE = {text!r} is not understood")
        tasks += [int(found[1])] * int(found[2] or 1)
    return tasks


def _first_host(text: str) -> str:
    """The first of a list as Slurm writes it: `gpu[03-07,9],cpu1` begins with gpu03."""
    first = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", text).partition(",")[0]
    if not first:
        raise InputError("SLURM_STEP_NODELIST is not set, so the ranks cannot meet; set MASTER_ADDR")
    return first


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables.get(name, "")
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"environment variable {name} = {text!r} is not a number, though another of its kind is set")
    return int(text)
