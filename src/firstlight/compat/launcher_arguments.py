"""What MindFormers' `msrun_launcher.sh` is given: 1, 2, 6 or 9 words, of which the first is a command."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firstlight.base.errors import InputError

FORMS = (
    ("EXECUTE_ORDER",),
    ("EXECUTE_ORDER", "WORKER_NUM"),
    ("EXECUTE_ORDER", "WORKER_NUM", "MASTER_PORT", "LOG_DIR", "JOIN", "CLUSTER_TIME_OUT"),
    (
        "EXECUTE_ORDER",
        "WORKER_NUM",
        "LOCAL_WORKER",
        "MASTER_ADDR",
        "MASTER_PORT",
        "NODE_RANK",
        "LOG_DIR",
        "JOIN",
        "CLUSTER_TIME_OUT",
    ),
)
"""The words of each form, in their order."""

_DEFAULTS = {
    "WORKER_NUM": "8",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "8118",
    "NODE_RANK": "0",
    "LOG_DIR": "output/msrun_log",
    "JOIN": "False",
    "CLUSTER_TIME_OUT": "7200",
}
_SCRIPT = "run_mindformer.py"
_INTERPRETERS = ("python", "python3")
_LARGEST_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class LauncherRequest:
    """What is to be started, and where."""

    arguments: tuple[str, ...]
    """Of run_mindformer.py."""
    num_workers: int
    """On all nodes."""
    num_local_workers: int
    master_address: str
    master_port: int
    node_rank: int
    log_folder: Path
    joins: bool
    """Whether the launcher waits for the workers, and ends with their exit code."""
    join_seconds: int
    """How long the nodes wait for each other."""

    @property
    def num_nodes(self) -> int:
        """Machines with `num_local_workers` each."""
        return self.num_workers // self.num_local_workers

    @property
    def ranks(self) -> range:
        """Of the workers of this node, among those of all nodes."""
        return range(self.node_rank * self.num_local_workers, (self.node_rank + 1) * self.num_local_workers)


def read_launcher_arguments(words: Sequence[str], *, log_suffix: str = "") -> LauncherRequest:
    """Read the words after `msrun_launcher.sh`; `log_suffix` is MF_LOG_SUFFIX. Raises InputError at the first fault."""
    form = next((form for form in FORMS if len(form) == len(words)), None)
    if form is None:
        usage = "\n".join(f"  bash scripts/msrun_launcher.sh {' '.join(form)}" for form in FORMS)
        raise InputError(f"msrun_launcher.sh was given {len(words)} arguments; use one of its forms:\n{usage}")
    given = _DEFAULTS | dict(zip(form, words, strict=True))
    num_workers = _number(given, "WORKER_NUM", at_least=1)
    num_local = _number(given, "LOCAL_WORKER", at_least=1) if "LOCAL_WORKER" in given else num_workers
    if num_workers % num_local:
        raise InputError(
            f"WORKER_NUM = {num_workers} is no multiple of LOCAL_WORKER = {num_local}; every node has as many workers"
        )
    node_rank = _number(given, "NODE_RANK", at_least=0)
    num_nodes = num_workers // num_local
    if num_nodes == 1:
        node_rank = 0  # MindFormers takes the nine words for one machine then
    elif node_rank >= num_nodes:
        raise InputError(
            f"NODE_RANK = {node_rank} is not one of the {num_nodes} nodes that WORKER_NUM = {num_workers} and "
            f"LOCAL_WORKER = {num_local} make; use 0 to {num_nodes - 1}"
        )
    port = _number(given, "MASTER_PORT", at_least=1)
    if port > _LARGEST_PORT:
        raise InputError(f"MASTER_PORT = {port} is no port; use 1 to {_LARGEST_PORT}")
    return LauncherRequest(
        arguments=_script_arguments(given["EXECUTE_ORDER"]),
        num_workers=num_workers,
        num_local_workers=num_local,
        master_address=given["MASTER_ADDR"],
        master_port=port,
        node_rank=node_rank,
        log_folder=Path(given["LOG_DIR"] + (f"_{log_suffix}" if log_suffix else "")),
        joins=_truth(given, "JOIN"),
        join_seconds=_number(given, "CLUSTER_TIME_OUT", at_least=1),
    )


def _number(given: dict[str, str], name: str, *, at_least: int) -> int:
    text = given[name]
    if not (text.isascii() and text.isdecimal()) or int(text) < at_least:
        raise InputError(f"{name} = {text!r} is not a whole number from {at_least} on")
    return int(text)


def _truth(given: dict[str, str], name: str) -> bool:
    text = given[name].lower()
    if text not in ("true", "false"):
        raise InputError(f"{name} = {given[name]!r} is neither True nor False")
    return text == "true"


def _script_arguments(order: str) -> tuple[str, ...]:
    """The words after `run_mindformer.py`; only this script is there to be started."""
    try:
        words = shlex.split(order)
    except ValueError as error:
        raise InputError(f"EXECUTE_ORDER = {order!r} cannot be split into words: {error}") from None
    if words and words[0] in _INTERPRETERS:
        words = words[1:]
    if not words or Path(words[0]).name != _SCRIPT:
        shown = words[0] if words else "nothing"
        raise InputError(f"EXECUTE_ORDER starts {shown}; it must start {_SCRIPT}, as in '{_SCRIPT} --config FILE'")
    return tuple(words[1:])
