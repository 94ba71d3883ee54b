"""Several processes on this machine, on torchelastic, with nothing that listens on a network.

Agent and ranks meet in a private folder (torch's file store) instead of a TCP store, which would listen on every
interface and unpickle what it is sent; gloo is bound to the loopback interface.
"""

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from firstlight.base.log import get_logger
from firstlight.launch.ranks import ENTRY, Ranks, Round, run_round, silence_torchelastic
from firstlight.launch.supervisor import Supervisor
from firstlight.resilience.watchdog import Stuck


def launch_local(
    arguments: Sequence[str],
    *,
    num_processes: int,
    supervisor: Supervisor | None = None,
    entry: Sequence[str] = ENTRY,
) -> int:
    """Run `firstlight ARGUMENTS` in `num_processes` processes; the exit code of what failed first, or 0.

    When a rank fails all others end within seconds, and its failure is said here, once; a `supervisor` then decides
    whether they start again. A signal to this process reaches the ranks, which save and end; the exit code is then
    theirs. `entry` is what Python is given before the arguments.
    """
    silence_torchelastic()
    ranks = Ranks(command=(*entry, *arguments), count=num_processes)
    with tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
        for number in range(sys.maxsize):
            # A folder of their own for each round: an old one holds the addresses of ranks that are gone.
            store_folder = Path(folder) / f"round-{number}"
            watch = partial(_watch, store_folder, supervisor)
            done = run_round(store_folder, ranks, watch)
            if not _starts_again(done, supervisor):
                break
    if supervisor is not None:
        supervisor.ended()
    return done.exit_code


def _watch(store_folder: Path, supervisor: Supervisor | None) -> Stuck | None:
    return None if supervisor is None else supervisor.watch(store_folder)


def _starts_again(done: Round, supervisor: Supervisor | None) -> bool:
    if done.ended is None:
        return False
    if supervisor is None or done.is_asked:
        get_logger().error(done.ended.cause.message)
        return False
    return supervisor.starts_again(done.ended)
