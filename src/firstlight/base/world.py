"""Reads the launcher's environment once. No other file of the package touches `os.environ`."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from firstlight.base.errors import InputError
from firstlight.base.started_by import Start, started_by

STORE_VARIABLE = "FIRSTLIGHT_STORE"
"""Folder of the file store in which the ranks of one node meet; set by our own launcher."""

LAUNCHER_VARIABLE = "FIRSTLIGHT_LAUNCHER"
"""Process number of our own launcher."""

_JOIN_SECONDS = 600
"""What ranks that Slurm or an MPI has started wait for each other."""

NODES_VARIABLE = "FIRSTLIGHT_NODES"
"""A NodeOfRanks as JSON; set by our own launcher where there are several. Their ranks meet at MASTER_STORE_VARIABLE."""

MASTER_STORE_VARIABLE = "FIRSTLIGHT_MASTER_STORE"
"""Address and port of the store that the launcher of the node that leads serves for this round."""


@dataclass(frozen=True, kw_only=True)
class MasterStore:
    """Where the ranks of several nodes meet."""

    address: str
    port: int
    join_seconds: int


@dataclass(frozen=True, kw_only=True)
class NodeOfRanks:
    """Where the ranks of this machine stand among those of several, and in which of their starts."""

    index: int
    """Of this node among the `count` that take part."""
    count: int
    whole: int
    """Nodes of the run when none is lost."""
    node: int
    """The machine's own number, which it keeps."""
    job: str
    """The start of the run by all its launchers."""
    round: int
    """Starts of the ranks in it, this one counted: who is of an earlier one has no say any more."""
    join_seconds: int


@dataclass(frozen=True, kw_only=True)
class World:
    """Where this process stands among the processes of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restart_count: int = 0
    store_folder: Path | None = None
    launcher_pid: int | None = None
    """The process of our own launcher, when it has started this one."""
    master_store: MasterStore | None = None
    """Where the ranks meet when our own launchers have started them on several nodes, or Slurm or an MPI has."""
    node: NodeOfRanks | None = None
    """With `master_store` of our own launchers."""
    serves_store: bool = False
    """Whether rank 0 is the one to serve `master_store`: Slurm and MPI have nothing that does."""

    @property
    def whole_size(self) -> int:
        """Processes of the run when no node is lost."""
        return self.size if self.node is None else self.node.whole * self.local_size

    @classmethod
    def from_environment(cls) -> "World":
        """The world as torchelastic (or any launcher that sets RANK and WORLD_SIZE), Slurm or an MPI describes it.

        Raises InputError when only a part of the variables is set or one is not a number.
        """
        if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
            start = started_by(os.environ)
            return cls() if start is None else _started(start)
        store = os.environ.get(STORE_VARIABLE)
        rank, size = _number("RANK"), _number("WORLD_SIZE")
        if rank >= size:
            raise InputError(f"environment variable RANK = {rank} is not one of the WORLD_SIZE = {size} ranks")
        if size > 1 and not store and "MASTER_ADDR" not in os.environ:
            raise InputError(
                "environment variable MASTER_ADDR is not set, so the ranks cannot meet; "
                "use --nproc-per-node, or a launcher that sets it"
            )
        node, master_store = _node()
        return cls(
            rank=(node.index if node else 0) * size + rank,
            size=(node.count if node else 1) * size,
            local_rank=_number("LOCAL_RANK", default=0),
            local_size=_number("LOCAL_WORLD_SIZE", default=size),
            restart_count=_number("TORCHELASTIC_RESTART_COUNT", default=0),
            store_folder=Path(store) if store else None,
            launcher_pid=_number(LAUNCHER_VARIABLE) if store else None,
            master_store=master_store,
            node=node,
        )


def node_start() -> Start | None:
    """The place of this process where Slurm or an MPI has started one on each node; None where it has not."""
    return started_by(os.environ)


def _started(start: Start) -> World:
    return World(
        rank=start.rank,
        size=start.size,
        local_rank=start.local_rank,
        local_size=start.local_size,
        master_store=MasterStore(address=start.address, port=start.port, join_seconds=_JOIN_SECONDS),
        serves_store=True,
    )


def worker_environment(*, store_folder: Path, threads: int, interface: str = "lo") -> dict[str, str]:
    """Variables for the ranks of one node: where they meet, on which interface, with how many threads.

    Gloo listens on that interface only, unless the user has named another one.
    """
    # torchelastic would open a TCP store beside the file store, for ranks that ask for one; ours do not.
    variables = {
        STORE_VARIABLE: str(store_folder),
        LAUNCHER_VARIABLE: str(os.getpid()),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
    }
    for name, value in (("GLOO_SOCKET_IFNAME", interface), ("OMP_NUM_THREADS", str(threads))):
        if name not in os.environ:
            variables[name] = value
    return variables


def nodes_environment(place: NodeOfRanks, *, store: str) -> dict[str, str]:
    """Variables for the ranks of one node of several, which meet at `store`."""
    return {NODES_VARIABLE: json.dumps(asdict(place)), MASTER_STORE_VARIABLE: store}


def names_interface() -> bool:
    """Whether the user has named the network interface that gloo is to use."""
    return bool(os.environ.get("GLOO_SOCKET_IFNAME"))


def user_cache_folder() -> Path:
    """Where programs of this user keep what they can make again: XDG_CACHE_HOME, or ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if Path(named).is_absolute() else Path.home() / ".cache"


def set_variables(variables: dict[str, str]) -> None:
    """Put `variables` into this process's environment, for libraries it loads later and processes it starts."""
    os.environ.update(variables)


def ask_for_reproducible_products() -> None:
    """Make MKL's matrix products independent of the number of threads; to be called before torch is loaded.

    AUTO keeps the processor's own instruction set, with static scheduling and ordered reductions. Without it a run of
    two processes with one thread each cannot repeat, to the bit, one process with two. A user's own value is kept.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO")


def silence_profiler() -> None:
    """Keep torch's profiler from saying on the console that it begins and ends; to be called before torch is loaded.

    A user's own level is kept.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def leave_exit_code(world: World, exit_code: int) -> None:
    """Tell our launcher how this rank ended, for the case that the launcher itself was asked to stop."""
    if world.store_folder is not None and world.store_folder.is_dir():
        (world.store_folder / f"exit-code-{world.rank}").write_text(str(exit_code))


def read_exit_code(store_folder: Path, *, default: int) -> int:
    """What the first rank of this node left, or `default` when it left nothing."""
    left = {int(path.name.rpartition("-")[2]): path for path in store_folder.glob("exit-code-*")}
    return int(left[min(left)].read_text()) if left else default


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _node() -> tuple[NodeOfRanks | None, MasterStore | None]:
    """This node among several, and where their ranks meet; neither on a single one."""
    text, place = os.environ.get(NODES_VARIABLE), os.environ.get(MASTER_STORE_VARIABLE)
    if not text or not place:
        return None, None
    node = NodeOfRanks(**json.loads(text))
    address, _, port = place.rpartition(":")
    return node, MasterStore(address=address, port=int(port), join_seconds=node.join_seconds)


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not (text.isascii() and text.isdecimal()):
        what = "is not set" if text is None else f"= {text!r} is not a number"
        raise InputError(
            f"environment variable {name} {what}; a launcher must set RANK and WORLD_SIZE, "
            "or neither of them for a single process"
        )
    return int(text)
