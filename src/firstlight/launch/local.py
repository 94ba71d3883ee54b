"""Several processes on this machine, on torchelastic, with nothing that listens on a network.

Agent and ranks meet in a private folder (torch's file store) instead of a TCP store, which would listen on every
interface and unpickle what it is sent; gloo is bound to the loopback interface.
"""

import logging
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from firstlight.base.world import available_cores, read_exit_code, set_variables, worker_environment

_SHUTDOWN_SECONDS = 600
"""A rank that was asked to stop finishes its step and saves; only then is it killed."""


def launch_local(arguments: Sequence[str], *, num_processes: int) -> int:
    """Run `firstlight ARGUMENTS` in `num_processes` processes; the exit code of the rank that failed first, or 0.

    A signal to this process reaches the ranks, which save and end; the exit code is then theirs.
    """
    _silence_torchelastic()
    with tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
        store_folder = Path(folder)
        threads = max(1, available_cores() // num_processes)
        set_variables(worker_environment(store_folder=store_folder, threads=threads))
        start = elastic_launch(_launch_config(store_folder, num_processes), sys.executable)
        try:
            start("-m", "firstlight", *arguments)
        except ChildFailedError as failure:
            _, first = failure.get_first_failure()
            return first.exitcode if first.exitcode > 0 else 1
        except SignalException as request:
            return read_exit_code(store_folder, default=128 + request.sigval.value)
    return 0


def _silence_torchelastic() -> None:
    """Its loggers each have a level of their own; what they would say, the ranks and the exit code say better."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _launch_config(store_folder: Path, num_processes: int) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=str(store_folder / "agents"),
        rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1",
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
